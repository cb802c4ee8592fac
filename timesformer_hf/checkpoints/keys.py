"""
Tables of parameter names: the name in another format -> the name in this package.

In a name, `{i}` stands for the number of a block, `{p}` for `weight` or `bias`, and `{rest}` for anything. Only names
differ between the formats, with one exception: an image ViT of transformers has separate weights for query, key and
value. There `[0]`, `[1]` and `[2]` after our name are the three parts of one parameter. `None` stands for a weight that
a TimeSformer doesn't use.
"""

import re
from collections.abc import Callable, Mapping

import torch

from ..video.printable import printable


KeyTable = Mapping[str, str | None]

_EMBEDDINGS = "timesformer.embeddings."
_LAYER = "timesformer.encoder.layer.{i}."

TIMM = {  # a Vision Transformer, as timm names it
    "cls_token": _EMBEDDINGS + "cls_token",
    "pos_embed": _EMBEDDINGS + "position_embeddings",
    "patch_embed.proj.{p}": _EMBEDDINGS + "patch_embeddings.projection.{p}",
    "blocks.{i}.norm1.{p}": _LAYER + "layernorm_before.{p}",
    "blocks.{i}.attn.qkv.{p}": _LAYER + "attention.attention.qkv.{p}",
    "blocks.{i}.attn.proj.{p}": _LAYER + "attention.output.dense.{p}",
    "blocks.{i}.norm2.{p}": _LAYER + "layernorm_after.{p}",
    "blocks.{i}.mlp.fc1.{p}": _LAYER + "intermediate.dense.{p}",
    "blocks.{i}.mlp.fc2.{p}": _LAYER + "output.dense.{p}",
    "norm.{p}": "timesformer.layernorm.{p}",
    "head.{p}": "classifier.{p}",
}
ORIGINAL = {  # the authors' code, which extends timm's model
    **{f"model.{name}": ours for name, ours in TIMM.items()},
    "model.time_embed": _EMBEDDINGS + "time_embeddings",
    "model.blocks.{i}.temporal_norm1.{p}": _LAYER + "temporal_layernorm.{p}",
    "model.blocks.{i}.temporal_attn.qkv.{p}": _LAYER + "temporal_attention.attention.qkv.{p}",
    "model.blocks.{i}.temporal_attn.proj.{p}": _LAYER + "temporal_attention.output.dense.{p}",
    "model.blocks.{i}.temporal_fc.{p}": _LAYER + "temporal_dense.{p}",
}

_BLOCK = "backbone.transformer_layers.layers.{i}."
_MMACTION2 = {
    "backbone.cls_token": _EMBEDDINGS + "cls_token",
    "backbone.pos_embed": _EMBEDDINGS + "position_embeddings",
    "backbone.time_embed": _EMBEDDINGS + "time_embeddings",
    "backbone.patch_embed.projection.{p}": _EMBEDDINGS + "patch_embeddings.projection.{p}",
    _BLOCK + "ffns.0.layers.0.0.{p}": _LAYER + "intermediate.dense.{p}",
    _BLOCK + "ffns.0.layers.1.{p}": _LAYER + "output.dense.{p}",
    "backbone.norm.{p}": "timesformer.layernorm.{p}",
    "cls_head.fc_cls.{p}": "classifier.{p}",
}
MMACTION2_DIVIDED = _MMACTION2 | {
    _BLOCK + "attentions.0.norm.{p}": _LAYER + "temporal_layernorm.{p}",
    _BLOCK + "attentions.0.attn.in_proj_{p}": _LAYER + "temporal_attention.attention.qkv.{p}",
    _BLOCK + "attentions.0.attn.out_proj.{p}": _LAYER + "temporal_attention.output.dense.{p}",
    _BLOCK + "attentions.0.temporal_fc.{p}": _LAYER + "temporal_dense.{p}",
    _BLOCK + "attentions.1.norm.{p}": _LAYER + "layernorm_before.{p}",
    _BLOCK + "attentions.1.attn.in_proj_{p}": _LAYER + "attention.attention.qkv.{p}",
    _BLOCK + "attentions.1.attn.out_proj.{p}": _LAYER + "attention.output.dense.{p}",
    _BLOCK + "ffns.0.norm.{p}": _LAYER + "layernorm_after.{p}",
}
MMACTION2_UNDIVIDED = _MMACTION2 | {
    _BLOCK + "attentions.0.attn.in_proj_{p}": _LAYER + "attention.attention.qkv.{p}",
    _BLOCK + "attentions.0.attn.out_proj.{p}": _LAYER + "attention.output.dense.{p}",
    _BLOCK + "norms.0.{p}": _LAYER + "layernorm_before.{p}",
    _BLOCK + "norms.1.{p}": _LAYER + "layernorm_after.{p}",
}

_VIT_COMMON = {
    "embeddings.cls_token": _EMBEDDINGS + "cls_token",
    "embeddings.position_embeddings": _EMBEDDINGS + "position_embeddings",
    "embeddings.patch_embeddings.projection.{p}": _EMBEDDINGS + "patch_embeddings.projection.{p}",
    "layernorm.{p}": "timesformer.layernorm.{p}",
}
VIT = _VIT_COMMON | {  # transformers' ViT without a head, as in memory
    "layers.{i}.layernorm_before.{p}": _LAYER + "layernorm_before.{p}",
    "layers.{i}.attention.q_proj.{p}": _LAYER + "attention.attention.qkv.{p}[0]",
    "layers.{i}.attention.k_proj.{p}": _LAYER + "attention.attention.qkv.{p}[1]",
    "layers.{i}.attention.v_proj.{p}": _LAYER + "attention.attention.qkv.{p}[2]",
    "layers.{i}.attention.o_proj.{p}": _LAYER + "attention.output.dense.{p}",
    "layers.{i}.layernorm_after.{p}": _LAYER + "layernorm_after.{p}",
    "layers.{i}.mlp.fc1.{p}": _LAYER + "intermediate.dense.{p}",
    "layers.{i}.mlp.fc2.{p}": _LAYER + "output.dense.{p}",
}
VIT_FILE = _VIT_COMMON | {  # the same, as in a file
    "encoder.layer.{i}.layernorm_before.{p}": _LAYER + "layernorm_before.{p}",
    "encoder.layer.{i}.attention.attention.query.{p}": _LAYER + "attention.attention.qkv.{p}[0]",
    "encoder.layer.{i}.attention.attention.key.{p}": _LAYER + "attention.attention.qkv.{p}[1]",
    "encoder.layer.{i}.attention.attention.value.{p}": _LAYER + "attention.attention.qkv.{p}[2]",
    "encoder.layer.{i}.attention.output.dense.{p}": _LAYER + "attention.output.dense.{p}",
    "encoder.layer.{i}.layernorm_after.{p}": _LAYER + "layernorm_after.{p}",
    "encoder.layer.{i}.intermediate.dense.{p}": _LAYER + "intermediate.dense.{p}",
    "encoder.layer.{i}.output.dense.{p}": _LAYER + "output.dense.{p}",
}
VIT_HEADS = {
    "classifier.{p}": "classifier.{p}",
    "pooler.dense.{p}": None,
    "embeddings.mask_token": None,
}


def with_prefix(prefix: str, table: KeyTable, heads: KeyTable) -> dict[str, str | None]:
    """
    Return the table of a model that is inside another one: its names with the prefix, and the heads without it.

    An entry of `heads` that is not a classifier is also looked for inside, with the prefix.
    """
    inside = {name: ours for name, ours in heads.items() if not name.startswith("classifier")}
    return {f"{prefix}{name}": ours for name, ours in (table | inside).items()} | dict(heads)


# Our own names. A TimesformerModel without a head is saved without the prefix.
OWN = {
    _EMBEDDINGS + "{rest}": _EMBEDDINGS + "{rest}",
    "timesformer.encoder.{rest}": "timesformer.encoder.{rest}",
    "timesformer.layernorm.{p}": "timesformer.layernorm.{p}",
    "classifier.{p}": "classifier.{p}",
}
OWN_HEADLESS = {name.removeprefix("timesformer."): ours for name, ours in OWN.items() if name != "classifier.{p}"}

_PLACEHOLDERS = {"{i}": r"(?P<i>\d+)", "{p}": r"(?P<p>weight|bias)", "{rest}": r"(?P<rest>.+)"}


def as_pattern(name: str) -> re.Pattern:
    """
    Return the regular expression of a name with placeholders: group `i` is the block, `p` the kind, `rest` the rest.
    """
    pattern = re.escape(name)
    for placeholder, expression in _PLACEHOLDERS.items():
        pattern = pattern.replace(re.escape(placeholder), expression)
    return re.compile(pattern)


def _make_renamer(table: KeyTable) -> Callable[[str], str | None]:
    """
    Return a function from a name in the format to our name, or to `None` for a weight that is left out. The function
    raises a `KeyError` for a name that is not in the table.
    """
    patterns = [(as_pattern(name), ours) for name, ours in table.items()]

    def rename(key: str) -> str | None:
        for pattern, ours in patterns:
            if match := pattern.fullmatch(key):
                return None if ours is None else ours.format(**match.groupdict())
        raise KeyError(key)

    return rename


def rename_keys(state_dict: Mapping[str, torch.Tensor], table: KeyTable) -> dict[str, torch.Tensor]:
    """
    Return the weights under the names that `table` gives them.

    Raises:
        ValueError: where a key is not in the table. The message lists those keys.
    """
    rename, renamed, unknown = _make_renamer(table), {}, []
    for key, tensor in state_dict.items():
        try:
            ours = rename(key)
        except KeyError:
            unknown.append(key)
            continue
        if ours is not None:
            renamed[ours] = tensor
    if unknown:
        more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
        names = ", ".join(map(printable, unknown[:10]))
        raise ValueError(f"{len(unknown)} unknown keys in the checkpoint: {names}{more}")
    return _join_parts(renamed)


def restore_keys(state_dict: Mapping[str, torch.Tensor], table: KeyTable) -> dict[str, torch.Tensor]:
    """
    Return a state dict of this package under the names of a format. It is the inverse of [`rename_keys`].

    Raises:
        ValueError: where the format has no name for a parameter. The message lists those parameters.
    """
    inverse = {ours: name for name, ours in table.items() if ours is not None}
    if any(name.endswith("[0]") for name in inverse):
        state_dict = _split_parts(state_dict, _make_renamer({name: name for name in inverse}))
    return rename_keys(state_dict, inverse)


def _join_parts(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Join query, key and value, which are `name[0]`, `name[1]` and `name[2]`, to one parameter `name`."""
    joined = {}
    for key, tensor in state_dict.items():
        name, is_part, _ = key.partition("[")
        if not is_part:
            joined[key] = tensor
        elif name not in joined and all(f"{name}[{part}]" in state_dict for part in range(3)):
            joined[name] = torch.cat([state_dict[f"{name}[{part}]"] for part in range(3)])
    return joined


def _split_parts(state_dict: Mapping[str, torch.Tensor], known: Callable) -> dict[str, torch.Tensor]:
    """Split parameters into query, key and value, where the format has separate ones: the inverse of `_join_parts`."""
    split = {}
    for key, tensor in state_dict.items():
        try:
            known(f"{key}[0]")
        except KeyError:
            split[key] = tensor
        else:
            split |= {f"{key}[{part}]": chunk for part, chunk in enumerate(tensor.chunk(3))}
    return split
