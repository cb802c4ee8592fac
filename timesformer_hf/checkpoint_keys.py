"""
Parameter names of foreign TimeSformer checkpoints, as tables: regular expression -> this model's name.

`ORIGINAL` is the authors' format (`model_state` of a `.pyth`), `MMACTION2_*` that of mmaction2 1.x (`state_dict` of a
`.pth`), where the names depend on the scheme. The values need no change, only the names.
"""

import re
from collections.abc import Mapping

import torch


_EMBEDDINGS = "timesformer.embeddings."
_LAYER = r"timesformer.encoder.layer.\1."

ORIGINAL = {
    r"model\.cls_token": _EMBEDDINGS + "cls_token",
    r"model\.pos_embed": _EMBEDDINGS + "position_embeddings",
    r"model\.time_embed": _EMBEDDINGS + "time_embeddings",
    r"model\.patch_embed\.proj\.(weight|bias)": _EMBEDDINGS + r"patch_embeddings.projection.\1",
    r"model\.blocks\.(\d+)\.norm1\.(weight|bias)": _LAYER + r"layernorm_before.\2",
    r"model\.blocks\.(\d+)\.attn\.qkv\.(weight|bias)": _LAYER + r"attention.attention.qkv.\2",
    r"model\.blocks\.(\d+)\.attn\.proj\.(weight|bias)": _LAYER + r"attention.output.dense.\2",
    r"model\.blocks\.(\d+)\.temporal_norm1\.(weight|bias)": _LAYER + r"temporal_layernorm.\2",
    r"model\.blocks\.(\d+)\.temporal_attn\.qkv\.(weight|bias)": _LAYER + r"temporal_attention.attention.qkv.\2",
    r"model\.blocks\.(\d+)\.temporal_attn\.proj\.(weight|bias)": _LAYER + r"temporal_attention.output.dense.\2",
    r"model\.blocks\.(\d+)\.temporal_fc\.(weight|bias)": _LAYER + r"temporal_dense.\2",
    r"model\.blocks\.(\d+)\.norm2\.(weight|bias)": _LAYER + r"layernorm_after.\2",
    r"model\.blocks\.(\d+)\.mlp\.fc1\.(weight|bias)": _LAYER + r"intermediate.dense.\2",
    r"model\.blocks\.(\d+)\.mlp\.fc2\.(weight|bias)": _LAYER + r"output.dense.\2",
    r"model\.norm\.(weight|bias)": r"timesformer.layernorm.\1",
    r"model\.head\.(weight|bias)": r"classifier.\1",
}

_MMACTION2_LAYER = r"backbone\.transformer_layers\.layers\.(\d+)\."
_MMACTION2_COMMON = {
    r"backbone\.cls_token": _EMBEDDINGS + "cls_token",
    r"backbone\.pos_embed": _EMBEDDINGS + "position_embeddings",
    r"backbone\.time_embed": _EMBEDDINGS + "time_embeddings",
    r"backbone\.patch_embed\.projection\.(weight|bias)": _EMBEDDINGS + r"patch_embeddings.projection.\1",
    _MMACTION2_LAYER + r"ffns\.0\.layers\.0\.0\.(weight|bias)": _LAYER + r"intermediate.dense.\2",
    _MMACTION2_LAYER + r"ffns\.0\.layers\.1\.(weight|bias)": _LAYER + r"output.dense.\2",
    r"backbone\.norm\.(weight|bias)": r"timesformer.layernorm.\1",
    r"cls_head\.fc_cls\.(weight|bias)": r"classifier.\1",
}
MMACTION2_DIVIDED = _MMACTION2_COMMON | {
    _MMACTION2_LAYER + r"attentions\.0\.norm\.(weight|bias)": _LAYER + r"temporal_layernorm.\2",
    _MMACTION2_LAYER + r"attentions\.0\.attn\.in_proj_(weight|bias)": _LAYER + r"temporal_attention.attention.qkv.\2",
    _MMACTION2_LAYER + r"attentions\.0\.attn\.out_proj\.(weight|bias)": _LAYER + r"temporal_attention.output.dense.\2",
    _MMACTION2_LAYER + r"attentions\.0\.temporal_fc\.(weight|bias)": _LAYER + r"temporal_dense.\2",
    _MMACTION2_LAYER + r"attentions\.1\.norm\.(weight|bias)": _LAYER + r"layernorm_before.\2",
    _MMACTION2_LAYER + r"attentions\.1\.attn\.in_proj_(weight|bias)": _LAYER + r"attention.attention.qkv.\2",
    _MMACTION2_LAYER + r"attentions\.1\.attn\.out_proj\.(weight|bias)": _LAYER + r"attention.output.dense.\2",
    _MMACTION2_LAYER + r"ffns\.0\.norm\.(weight|bias)": _LAYER + r"layernorm_after.\2",
}
MMACTION2_UNDIVIDED = _MMACTION2_COMMON | {
    _MMACTION2_LAYER + r"attentions\.0\.attn\.in_proj_(weight|bias)": _LAYER + r"attention.attention.qkv.\2",
    _MMACTION2_LAYER + r"attentions\.0\.attn\.out_proj\.(weight|bias)": _LAYER + r"attention.output.dense.\2",
    _MMACTION2_LAYER + r"norms\.0\.(weight|bias)": _LAYER + r"layernorm_before.\2",
    _MMACTION2_LAYER + r"norms\.1\.(weight|bias)": _LAYER + r"layernorm_after.\2",
}


def rename_keys(state_dict: Mapping[str, torch.Tensor], table: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """
    `state_dict` under this model's names.

    Raises:
        ValueError: where `table` doesn't know a key; the message lists the unknown ones.
    """
    renamed, unknown = {}, []
    for key, tensor in state_dict.items():
        match = next((pattern for pattern in table if re.fullmatch(pattern, key)), None)
        if match is None:
            unknown.append(key)
        else:
            renamed[re.sub(match, table[match], key)] = tensor
    if unknown:
        raise ValueError(f"{len(unknown)} unknown keys in the checkpoint: {', '.join(unknown[:10])}")
    return renamed
