"""The heavy half: one image becomes four feature maps, with no click in sight.

Enters: a normalised, padded batch (B, 3, H, W). Leaves: maps at strides 4, 8, 16 and 32
(with the paper's 16-pixel patches; half of that with 8-pixel ones).
A plain ViT with learned relative positions and a simple feature pyramid (Huang et al., ICCV 2023,
section 3.2), and optionally a convolutional stem that keeps the fine detail a 16-pixel patch loses.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


def strides_of(patch_size: int) -> tuple[int, int, int, int]:
    """Return the pyramid's strides in pixels: (4, 8, 16, 32) for the paper's 16-pixel patches."""
    return patch_size // 4, patch_size // 2, patch_size, 2 * patch_size


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return softmax(query key' / sqrt(C) + bias) value; (B, heads, N, C), keys and values (B, heads, M, C)."""
    if torch.is_grad_enabled() and query.device.type == "cpu":
        # Spelled out: on a CPU the fused one's backward pass takes a quarter longer.
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        scores = scores if bias is None else scores + bias
        weights: Tensor = scores.softmax(-1).to(value.dtype)
        return weights @ value
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


class Attention(nn.Module):
    """Multi-head self-attention with a learned bias per head and relative position (as in BEiT).

    The table has a row for each offset on the training grid (`grid` tokens a side) and three more: class
    token to token, token to class token, class token to itself.
    """

    def __init__(self, dim: int, heads: int, grid: int) -> None:
        super().__init__()
        self.heads, self.grid = heads, grid
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * grid - 1) ** 2 + 3, heads))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """Attend; `x` is (B, N, C), `index` (N, N) the rows of the bias table."""
        batch, length, dim = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (3, B, heads, N, C / heads)
        # index_select on contiguous rows: ten times faster than indexing, forwards and backwards
        table = self.relative_position_bias_table.t().contiguous()
        bias = table.index_select(1, index.view(-1)).view(1, self.heads, length, length)
        out = attend(query, key, value, bias.to(query.dtype))
        return self.proj(out.transpose(1, 2).reshape(batch, length, dim))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """A pre-norm transformer layer with LayerScale and stochastic depth."""

    def __init__(self, dim: int, heads: int, grid: int, mlp_ratio: int, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.gamma_1 = nn.Parameter(torch.ones(dim))
        self.gamma_2 = nn.Parameter(torch.ones(dim))
        self.ln1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, grid)
        self.ln2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_ratio * dim), nn.GELU(), nn.Linear(mlp_ratio * dim, dim))

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """Transform tokens (B, N, C)."""
        x = x + self._drop(self.gamma_1 * self.attn(self.ln1(x), index))
        return x + self._drop(self.gamma_2 * self.mlp(self.ln2(x)))

    def _drop(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return branch
        keep = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop_path
        return branch * keep / (1 - self.drop_path)


class Pyramid(nn.Module):
    """Four branches from the token map to 4, 2, 1 and 1/2 times its size; GroupNorm with one group."""

    def __init__(self, dim: int, channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        wide = max(dim // 2, 2 * channels[0])
        eighth = max(dim // 2, channels[1])
        coarse = max(2 * dim, channels[3])
        self.rescale_ops = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(dim, wide, 2, 2),
                    nn.GroupNorm(1, wide),
                    nn.GELU(),
                    nn.ConvTranspose2d(wide, wide // 2, 2, 2),
                    nn.GroupNorm(1, wide // 2),
                    *_project(wide // 2, channels[0]),
                ),
                nn.Sequential(
                    nn.ConvTranspose2d(dim, eighth, 2, 2),
                    nn.GroupNorm(1, eighth),
                    *_project(eighth, channels[1]),
                ),
                nn.Sequential(*_project(dim, channels[2])),
                nn.Sequential(
                    nn.Conv2d(dim, coarse, 2, 2), nn.GroupNorm(1, coarse), *_project(coarse, channels[3])
                ),
            ]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Turn the token map (B, C, H, W) into four maps, finest first."""
        return [branch(x) for branch in self.rescale_ops]


def _project(dim: int, channels: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(dim, channels, 1), nn.GroupNorm(1, channels), nn.GELU()


class PixelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Detail(nn.Module):
    """A convolutional stem beside the tokens, for objects smaller than a patch (not in the paper).

    Residual blocks at the pyramid's two finest strides; their maps are added to the pyramid's, and a third
    to the patch embedding. Normalised pixel by pixel: what a pixel gets does not depend on what else is in the tile
    or in the batch.
    """

    def __init__(
        self, widths: tuple[int, int, int], patch_size: int, dim: int, channels: tuple[int, int, int, int]
    ) -> None:
        super().__init__()
        first, finest, second = widths
        halvings = (patch_size // 4).bit_length() - 1  # from pixels to the finest stride
        steps = [_conv(3, first, 1 if halvings < 2 else 2)]
        steps += [_conv(first if i == 0 else finest, finest, 2) for i in range(max(halvings - 1, 1))]
        self.finest = nn.Sequential(*steps, Residual(finest), Residual(finest))
        self.second = nn.Sequential(_conv(finest, second, 2), Residual(second), Residual(second))
        self.tokens = nn.Conv2d(second, dim, 3, 2, 1)
        self.lateral_finest = nn.Conv2d(finest, channels[0], 1)
        self.lateral_second = nn.Conv2d(second, channels[1], 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what to add to the pyramid's two finest maps and to the patch embedding."""
        finest = self.finest(x)
        second = self.second(finest)
        return self.lateral_finest(finest), self.lateral_second(second), self.tokens(second)


class Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _conv(width, width, 1)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), PixelNorm(width))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, C, H, W)."""
        return F.relu(x + self.second(self.first(x)))


def _conv(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), PixelNorm(outputs), nn.ReLU(inplace=True)
    )


class Encoder(nn.Module):
    """ViT and pyramid: (B, 3, H, W) to maps (B, C_i, H / s_i, W / s_i).

    Parameters
    ----------
    grid : int
        Tokens a side at the training size; other sizes look up the nearest position.
    patch_size : int
        Pixels a side of a patch; a power of two, at least 8.
    dim, depth, heads, mlp_ratio : int
        The ViT's size.
    channels : tuple of int
        Channels of the four maps.
    detail : tuple of int, optional
        Widths of the convolutional stem: first layer, finest stride, second; empty for none, as in the paper.
    drop_path : float
        Chance of dropping the deepest layer's branches while training; shallower ones less.
    """

    def __init__(
        self,
        *,
        grid: int,
        patch_size: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: int,
        channels: tuple[int, int, int, int],
        detail: tuple[int, ...],
        drop_path: float,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, dim))
        self.patch_embed = nn.Conv2d(3, dim, patch_size, patch_size)
        self.layers = nn.ModuleList(
            Layer(dim, heads, grid, mlp_ratio, drop_path * i / max(depth - 1, 1)) for i in range(depth)
        )
        self.fpn = Pyramid(dim, channels)
        self.detail = Detail((detail[0], detail[1], detail[2]), patch_size, dim, channels) if detail else None

    def forward(self, x: Tensor) -> list[Tensor]:
        """Encode (B, 3, H, W); H and W are multiples of twice the patch size."""
        tokens = self.patch_embed(x)  # (B, C, H / patch, W / patch)
        fine = self.detail(x) if self.detail is not None else None
        if fine is not None:
            tokens = tokens + fine[2]
        batch, dim, height, width = tokens.shape
        tokens = tokens.flatten(2).transpose(1, 2)  # (B, N, C)
        tokens = torch.cat([self.cls_token.expand(batch, -1, -1), tokens], dim=1) + self._positions(
            height, width
        )
        index = relative_position_index(height, width, self.grid).to(x.device)
        for layer in self.layers:
            tokens = layer(tokens, index)
        grid = tokens[:, 1:].transpose(1, 2).reshape(batch, dim, height, width)
        maps = self.fpn(grid)
        if fine is not None:
            maps[0], maps[1] = maps[0] + fine[0], maps[1] + fine[1]
        return maps  # type: ignore[no-any-return]

    def _positions(self, height: int, width: int) -> Tensor:
        """Return the position embedding (1, 1 + height * width, C) for a grid of another size."""
        if (height, width) == (self.grid, self.grid):
            return self.pos_embed
        plane = self.pos_embed[:, 1:].transpose(1, 2).reshape(1, -1, self.grid, self.grid)
        plane = F.interpolate(plane, size=(height, width), mode="nearest")
        return torch.cat([self.pos_embed[:, :1], plane.flatten(2).transpose(1, 2)], dim=1)


@functools.lru_cache(maxsize=4)
def relative_position_index(height: int, width: int, grid: int) -> Tensor:
    """Return the bias table's row for each pair of tokens, (1 + N, 1 + N) int32, query first.

    Each token of a `height` x `width` grid is looked up at its nearest cell of the training grid, which
    equals resizing the training grid's full bias matrix with *nearest* along its four axes.
    """
    # The cache outlives inference mode: a tensor made there could not be used in training.
    with torch.inference_mode(False):
        return _relative_position_index(height, width, grid)


def _relative_position_index(height: int, width: int, grid: int) -> Tensor:
    rows = torch.arange(height) * grid // height
    columns = torch.arange(width) * grid // width
    offset_y = (rows[:, None] - rows[None] + grid - 1) * (2 * grid - 1)  # (height, height)
    offset_x = columns[:, None] - columns[None] + grid - 1  # (width, width)
    offsets = offset_y[:, None, :, None] + offset_x[None, :, None, :]
    last = (2 * grid - 1) ** 2
    index = torch.empty(1 + height * width, 1 + height * width, dtype=torch.int32)
    index[1:, 1:] = offsets.reshape(height * width, height * width)
    index[0, :], index[:, 0], index[0, 0] = last, last + 1, last + 2
    return index
