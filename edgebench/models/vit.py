"""Vision transformer (Dosovitskiy et al., 2021) for small images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebench.errors import ModelError
from edgebench.models.base import MODELS, scaled
from edgebench.models.checks import whole_number

if TYPE_CHECKING:
    from torch import nn

DROPOUT = 0.1
# Hidden units of the dense part of a block, for each of the embedding.
EXPANSION = 2
# Standard deviation of initial token, positions and dense weights, as in the original.
INITIAL_DEVIATION = 0.02


@MODELS.register("vit")
def vit(
    input_shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    width: float = 1.0,
    *,
    patch: int = 4,
    dim: int = 128,
    heads: int = 4,
    depth: int = 6,
) -> nn.Module:
    """Vision transformer, patch 4, embedding 128, 6 blocks: 822,756 parameters for 100 classes.

    Of "Knowledge Distillation, the Functional Perspective" (811,146 for 10 classes), which fixes
    patch, embedding, 4 heads, a hidden layer of twice the embedding, dropout of .1 and 6 blocks.
    The rest is the original's form, and gives the count on 32×32 RGB: a class token, learnt
    positions for it and the patches, normalisation before attention and dense part and after the
    last block, biases everywhere, one dense layer on the class token. Dropout follows the
    positions, each attention and each dense layer of a block.

    `patch` is the edge of a patch in pixels, and divides the image's edges; `dim` the embedding,
    which `heads` divides; `depth` the number of blocks; `width` scales the embedding, head by head.
    """
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Attention(nn.Module):
        """Self-attention of `num_heads` heads with `head_dim` channels each.

        Both are read when it runs, so that heads can be taken out of `qkv` and `proj`.
        """

        def __init__(self, dim: int, num_heads: int) -> None:
            super().__init__()
            self.num_heads = num_heads
            self.head_dim = dim // num_heads
            self.qkv = nn.Linear(dim, 3 * dim)
            self.proj = nn.Linear(dim, dim)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            batch, tokens = x.shape[0], x.shape[1]
            qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim)
            # Unbound, not indexed: torch-pruning follows this form alone.
            query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            mixed = F.scaled_dot_product_attention(query, key, value)
            mixed = mixed.transpose(1, 2).reshape(batch, tokens, self.num_heads * self.head_dim)
            result: torch.Tensor = self.proj(mixed)
            return result

    class Block(nn.Module):
        """Attention and a dense part, each beside its input."""

        def __init__(self, dim: int, num_heads: int) -> None:
            super().__init__()
            self.attention_norm = nn.LayerNorm(dim)
            self.attention = Attention(dim, num_heads)
            self.attention_dropout = nn.Dropout(DROPOUT)
            self.dense_norm = nn.LayerNorm(dim)
            self.dense = nn.Sequential(
                nn.Linear(dim, EXPANSION * dim),
                nn.GELU(),
                nn.Dropout(DROPOUT),
                nn.Linear(EXPANSION * dim, dim),
                nn.Dropout(DROPOUT),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.attention_dropout(self.attention(self.attention_norm(x)))
            result: torch.Tensor = x + self.dense(self.dense_norm(x))
            return result

    class VisionTransformer(nn.Module):
        """Patches and a class token through the blocks; the token answers."""

        def __init__(self, channels: int, patches: int, dim: int) -> None:
            super().__init__()
            self.embedding = nn.Conv2d(channels, dim, patch, patch)
            self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
            self.positions = nn.Parameter(torch.zeros(1, patches + 1, dim))
            self.dropout = nn.Dropout(DROPOUT)
            self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
            self.norm = nn.LayerNorm(dim)
            self.classifier = nn.Linear(dim, classes)
            for weight in (self.class_token, self.positions):
                nn.init.trunc_normal_(weight, std=INITIAL_DEVIATION)
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.trunc_normal_(layer.weight, std=INITIAL_DEVIATION)
                    nn.init.zeros_(layer.bias)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.embedding(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1)
            x = self.dropout(x + self.positions)
            result: torch.Tensor = self.classifier(self.norm(self.blocks(x))[:, 0])
            return result

    for option, value in (("patch", patch), ("dim", dim), ("heads", heads), ("depth", depth)):
        whole_number(option, value)
    channels, height, breadth = input_shape
    if height % patch or breadth % patch:
        raise ModelError(
            f"vit cuts images into patches of {patch}×{patch} pixels, which does not go into "
            f"{height}×{breadth}",
            hint="set another 'patch'",
        )
    if dim % heads:
        raise ModelError(f"vit's dim of {dim} cannot be divided by its {heads} heads")
    patches = (height // patch) * (breadth // patch)
    return VisionTransformer(channels, patches, heads * scaled(dim // heads, width))
