"""
TimeSformer in plain torch, to read beside the paper: "Is Space-Time Attention All You Need for Video Understanding?"
(Bertasius, Wang and Torresani, ICML 2021, arXiv 2102.05095). "Section" and "equation" below mean those of the paper.

    python examples/micro_timesformer.py

This prints the sizes of the paper's three models and their numbers of parameters.

The file needs nothing but torch. The parameters have the names of transformers' TimeSformer, so a checkpoint loads:

    model = MicroTimesformer(num_frames=8, num_labels=400)
    model.load_state_dict(safetensors.torch.load_file("model.safetensors"))

Letters are the paper's: a clip has F frames of H x W pixels; a frame has N patches of P x P pixels; a token has D
numbers; each attention has A heads of D / A numbers; the model has L blocks. B is the number of clips in a batch.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


class MicroTimesformer(nn.Module):
    """Section 3: clips (B, F, 3, H, W) in, logits (B, labels) out. The defaults are the paper's base model."""

    def __init__(
        self,
        attention_type: str = "divided_space_time",  # or "joint_space_time", "space_only"
        num_labels: int = 400,
        num_frames: int = 8,  # F
        image_size: int = 224,  # H = W
        patch_size: int = 16,  # P
        hidden_size: int = 768,  # D
        num_hidden_layers: int = 12,  # L
        num_attention_heads: int = 12,  # A
        intermediate_size: int = 3072,
    ):
        super().__init__()
        self.space_only = attention_type == "space_only"
        blocks = {"divided_space_time": DividedBlock, "joint_space_time": Block, "space_only": Block}
        num_patches = (image_size // patch_size) ** 2  # N
        times = 0 if self.space_only else num_frames
        sizes = (hidden_size, num_attention_heads, intermediate_size)
        self.timesformer = nn.ModuleDict()
        self.timesformer["embeddings"] = Embeddings(num_patches, times, patch_size, hidden_size)
        layers = nn.ModuleList(blocks[attention_type](*sizes) for _ in range(num_hidden_layers))
        self.timesformer["encoder"] = nn.ModuleDict({"layer": layers})
        self.timesformer["layernorm"] = layer_norm(hidden_size)
        # The paper has an MLP with one hidden layer here. The authors' code has a linear layer.
        self.classifier = nn.Linear(hidden_size, num_labels)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, labels) of clips (B, F, 3, H, W)."""
        return self.classifier(self.embed(clips))

    def embed(self, clips: torch.Tensor) -> torch.Tensor:
        """Paragraph "Classification embedding", equation 10: the normalised classification token (B, D)."""
        num_clips, num_frames = clips.shape[:2]
        if self.space_only:  # each frame is a clip of its own
            clips = clips.flatten(0, 1).unsqueeze(1)
        cls, patches = self.timesformer["embeddings"](clips)
        for block in self.timesformer["encoder"]["layer"]:
            cls, patches = block(cls, patches)
        if self.space_only:  # and the frames are averaged
            cls = cls.unflatten(0, (num_clips, num_frames)).mean(dim=1)
        return self.timesformer["layernorm"](cls)[:, 0]


class Embeddings(nn.Module):
    """Paragraphs "Decomposition into patches" and "Linear embedding", equation 1."""

    def __init__(self, num_patches: int, num_frames: int, patch_size: int, dim: int):
        super().__init__()
        # E in the paper: one linear map of the pixels of a patch. A convolution whose stride is its size is the same.
        self.patch_embeddings = nn.ModuleDict({"projection": nn.Conv2d(3, dim, patch_size, stride=patch_size)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        # The paper's e_pos is one table for all (p, t). Here, as in the authors' code, it is the sum of two: one for
        # the place p and one for the time t ("Space-Time" in Table 4). Entry 0 of the places is for the CLS token.
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + num_patches, dim))
        self.time_embeddings = nn.Parameter(torch.zeros(1, num_frames, dim)) if num_frames else None

    def forward(self, clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, F, 3, H, W) -> the classification token (B, 1, D) and the patches (B, F, N, D): z at l = 0."""
        patches = self.patch_embeddings["projection"](clips.flatten(0, 1))  # (B * F, D, rows, columns)
        places = self.places(*patches.shape[-2:])
        patches = patches.flatten(2).transpose(1, 2).unflatten(0, clips.shape[:2]) + places[:, None]
        if self.time_embeddings is not None:
            patches = patches + self.times(clips.shape[1])[:, :, None]
        cls = self.cls_token + self.position_embeddings[:, :1]
        return cls.expand(len(clips), -1, -1), patches

    def places(self, rows: int, columns: int) -> torch.Tensor:
        """Return the table of places (1, N, D). For another size of frame it takes the nearest places."""
        side = math.isqrt(self.position_embeddings.shape[1] - 1)
        table = self.position_embeddings[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        return F.interpolate(table, (rows, columns)).flatten(2).transpose(1, 2)

    def times(self, num_frames: int) -> torch.Tensor:
        """Return the table of times (1, F, D). For another number of frames it takes the nearest times."""
        return F.interpolate(self.time_embeddings.transpose(1, 2), num_frames).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention inside groups of tokens: equations 2 to 8, without the sum at the end of 8."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attention = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim)})
        self.output = nn.ModuleDict({"dense": nn.Linear(dim, dim)})

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(groups, length, D) -> (groups, length, D). Each token sees all tokens of its group."""
        qkv = self.attention["qkv"](tokens).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # equations 2, 3, 4: each (groups, heads, length, D / heads)
        alpha = (query @ key.transpose(-1, -2) / math.sqrt(key.shape[-1])).softmax(dim=-1)  # equations 5, 6, 11
        heads = alpha @ value  # equation 7
        return self.output["dense"](heads.transpose(1, 2).flatten(2))  # W_O of equation 8


class Block(nn.Module):
    """
    Joint space-time attention, "ST" in Figure 2: each token sees every patch of every frame (equation 5).

    It is the block of an image ViT. With one frame it is space attention alone, "S" in Figure 2 (equation 6).
    """

    def __init__(self, dim: int, heads: int, hidden: int):
        super().__init__()
        self.layernorm_before = layer_norm(dim)
        self.attention = Attention(dim, heads)
        self.layernorm_after = layer_norm(dim)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(dim, hidden)})
        self.output = nn.ModuleDict({"dense": nn.Linear(hidden, dim)})

    def forward(self, cls: torch.Tensor, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 1, D) and (B, F, N, D) -> the same shapes."""
        tokens = torch.cat((cls, patches.flatten(1, 2)), dim=1)  # (B, 1 + F * N, D)
        tokens = tokens + self.attention(self.layernorm_before(tokens))  # equation 8
        tokens = tokens + self.mlp(tokens)  # equation 9
        return tokens[:, :1], tokens[:, 1:].unflatten(1, patches.shape[1:3])

    def mlp(self, tokens: torch.Tensor) -> torch.Tensor:
        """Equation 9 without its sum: the MLP on each token."""
        return self.output["dense"](F.gelu(self.intermediate["dense"](self.layernorm_after(tokens))))


class DividedBlock(Block):
    """Divided space-time attention, "T+S" in Figure 2: first along time, then inside each frame."""

    def __init__(self, dim: int, heads: int, hidden: int):
        super().__init__(dim, heads, hidden)
        self.temporal_layernorm = layer_norm(dim)
        self.temporal_attention = Attention(dim, heads)
        self.temporal_dense = nn.Linear(dim, dim)  # not in the paper, but in the authors' code and in its checkpoints

    def forward(self, cls: torch.Tensor, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 1, D) and (B, F, N, D) -> the same shapes."""
        num_clips, num_frames, num_patches, _ = patches.shape
        # Time: the F patches of one place form a group (equation 11). Equation 11 has the classification token as a
        # key too. The authors' code leaves it out of this step, and so does this file.
        tubes = patches.transpose(1, 2).flatten(0, 1)  # (B * N, F, D)
        tubes = self.temporal_dense(self.temporal_attention(self.temporal_layernorm(tubes)))
        patches = patches + tubes.unflatten(0, (num_clips, num_patches)).transpose(1, 2)
        # Space: the N patches of one frame form a group, with a copy of the classification token (equation 6).
        frames = torch.cat((cls[:, None].expand(-1, num_frames, -1, -1), patches), dim=2).flatten(0, 1)
        frames = self.attention(self.layernorm_before(frames)).unflatten(0, (num_clips, num_frames))
        cls = cls + frames[:, :, 0].mean(dim=1, keepdim=True)  # the mean over the frames, as in the authors' code
        patches = patches + frames[:, :, 1:]
        return cls + self.mlp(cls), patches + self.mlp(patches)  # equation 9


def layer_norm(dim: int) -> nn.LayerNorm:
    """Return the layer norm of the authors' code."""
    return nn.LayerNorm(dim, eps=1e-6)


def main() -> None:
    """Print the size of the paper's three models. On the device "meta" nothing is computed and no memory is used."""
    for name, frames, size in (("TimeSformer", 8, 224), ("TimeSformer-HR", 16, 448), ("TimeSformer-L", 96, 224)):
        with torch.device("meta"):
            model = MicroTimesformer(num_frames=frames, image_size=size)
            labels = model(torch.empty(1, frames, 3, size, size)).shape[1]
        count = sum(parameter.numel() for parameter in model.parameters())
        print(f"{name:14} {frames:2} frames of {size} x {size}: {count / 1e6:.2f} M parameters, {labels} labels")


if __name__ == "__main__":
    main()
