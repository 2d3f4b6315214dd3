"""The heavy half: one image becomes four feature maps, with no click in sight.

Enters: a normalised, padded batch (B, 3, H, W). Leaves: maps at strides 4, 8, 16 and 32
(with the paper's 16-pixel patches; half of that with 8-pixel ones).
A plain ViT with learned relative positions and a simple feature pyramid (Huang et al., ICCV 2023,
section 3.2), and optionally a convolutional stem that keeps the fine detail a 16-pixel patch loses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor


# Numbers of the position bias to make at a time on a CPU: 2 MB.
IN_CACHE = 1 << 19


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


class TokenLinear(nn.Linear):
    """A linear layer for tokens (B, N, C).

    On a CPU it runs as a convolution of 1x1 by oneDNN: PyTorch leaves matrix products to MKL, which takes up to twice as long
    on processors that are not Intel's, and on a single thread small batches of such convolutions, too.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Change the channels."""
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return super().forward(x)
        pixels = x.transpose(1, 2)[:, :, None]  # (B, C, 1, N), channels last
        weight = self.weight[:, :, None, None]
        # Not under autocast, which knows `conv2d` alone.
        if x.dtype == weight.dtype and torch.backends.mkldnn.is_available():
            out = torch.mkldnn_convolution(pixels, weight, self.bias, (0, 0), (1, 1), (1, 1), 1)
        else:
            out = F.conv2d(pixels, weight, self.bias)
        return out[:, :, 0].transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention with a learned bias per head and relative position (as in BEiT).

    The table has a row for each offset on the training grid (`grid` tokens a side) and three more: class
    token to token, token to class token, class token to itself. A token of another grid is looked up at its
    nearest cell of the training grid, which equals resizing the training grid's full bias matrix with *nearest* along
    its four axes.
    """

    def __init__(self, dim: int, heads: int, grid: int) -> None:
        super().__init__()
        self.heads, self.grid = heads, grid
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * grid - 1) ** 2 + 3, heads))
        self.qkv = TokenLinear(dim, 3 * dim)
        self.proj = TokenLinear(dim, dim)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Attend; `x` is (B, 1 + H * W, C), the class token first, `size` is (H, W)."""
        batch, length, dim = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (3, B, heads, N, C / heads)
        # On a CPU row by row of tokens; with a gradient, all rows are kept in any case.
        whole = torch.is_grad_enabled() or x.device.type != "cpu"
        done, out = 0, []
        for bias in [self._bias(size)] if whole else self._biases(size):
            part = query[:, :, done : done + bias.shape[1]]
            out.append(attend(part, key, value, bias[None].to(query.dtype)))
            done += bias.shape[1]
        return self.proj(torch.cat(out, dim=2).transpose(1, 2).reshape(batch, length, dim))  # type: ignore[no-any-return]

    def _bias(self, size: tuple[int, int]) -> Tensor:
        """Return the bias (heads, 1 + H * W, 1 + H * W), the class token first."""
        height, width = size
        from_class, to_class, own = self.relative_position_bias_table[-3:, :, None]  # (heads, 1)
        tokens = self._lines(width).index_select(2, self._downward(height).view(-1))
        tokens = tokens.view(self.heads, width, height, -1).transpose(1, 2)  # (heads, H, W, H * W)
        columns = to_class[:, None, None].expand(-1, height, width, 1), tokens
        first = torch.cat([own, from_class.expand(-1, height * width)], dim=1)
        return torch.cat([first[:, None], torch.cat(columns, dim=3).flatten(1, 2)], dim=1)

    def _biases(self, size: tuple[int, int]) -> Iterator[Tensor]:
        """Yield the same, so many rows of tokens at a time as fit a processor's cache, in one place that is written over.

        All at once it takes more memory than anything else in the encoder.
        """
        height, width = size
        rows = min(height, max(1, IN_CACHE // (self.heads * width * (1 + height * width))))
        from_class, to_class, own = self.relative_position_bias_table[-3:]  # (heads,)
        bias = from_class.new_empty(self.heads, 1 + rows * width, 1 + height * width)
        bias[:, 0, 0], bias[:, 0, 1:], bias[:, 1:, 0] = own, from_class[:, None], to_class[:, None]
        tokens = bias[:, 1:, 1:].unflatten(1, (rows, width))
        lines, downward = self._lines(width), self._downward(height)
        for first in range(0, height, rows):
            for row, offsets in enumerate(downward[first : first + rows]):
                if height == self.grid:  # they follow each other
                    near = lines.narrow(2, int(offsets[0]), height)
                else:
                    near = lines.index_select(2, offsets)
                tokens[:, row] = near.flatten(2)
            # The class token's row goes with the first ones.
            yield bias[:, int(first > 0) : 1 + min(rows, height - first) * width]

    def _lines(self, width: int) -> Tensor:
        """Return the bias (heads, column of the query, offset downward, column of the key), the key farthest above first.

        What is copied from here on are whole rows, no single numbers.
        """
        offsets = 2 * self.grid - 1
        lines = self.relative_position_bias_table[:-3].view(offsets, offsets, self.heads).flip(0)
        lines = lines.permute(1, 2, 0).contiguous().index_select(0, self._offsets(width).view(-1))
        return lines.view(width, width, self.heads, offsets).permute(2, 0, 3, 1).contiguous()

    def _downward(self, height: int) -> Tensor:
        """Return which offset of `_lines` each pair of rows has, (height, height), query first."""
        return 2 * (self.grid - 1) - self._offsets(height)

    def _offsets(self, length: int) -> Tensor:
        """Return the offset's index in the table for each pair of tokens along an axis, (length, length), query first."""
        table = self.relative_position_bias_table
        cells = torch.arange(self.grid, dtype=torch.float32, device=table.device)
        cells = F.interpolate(cells[None, None], size=length, mode="nearest")[0, 0].long()
        return cells[:, None] - cells[None] + self.grid - 1


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
        self.mlp = nn.Sequential(
            TokenLinear(dim, mlp_ratio * dim), nn.GELU(), TokenLinear(mlp_ratio * dim, dim)
        )

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Transform tokens (B, 1 + H * W, C) of a grid of `size` (H, W)."""
        x = x + self._drop(self.gamma_1 * self.attn(self.ln1(x), size))
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
        stride = strides_of(patch_size)[0]
        self.finest = nn.Sequential(
            _conv(3, first, stride // 2), _conv(first, finest, 2), Residual(finest), Residual(finest)
        )
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
        Pixels a side of a patch: 8 or 16.
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

    def forward(self, x: Tensor, before_layer: Callable[[], None] | None = None) -> list[Tensor]:
        """Encode (B, 3, H, W); H and W are multiples of twice the patch size. What `before_layer` raises ends it early."""
        tokens = self.patch_embed(x)  # (B, C, H / patch, W / patch)
        fine = self.detail(x) if self.detail is not None else None
        if fine is not None:
            tokens = tokens + fine[2]
        batch, dim, height, width = tokens.shape
        tokens = tokens.flatten(2).transpose(1, 2)  # (B, N, C)
        tokens = torch.cat([self.cls_token.expand(batch, -1, -1), tokens], dim=1) + self._positions(
            height, width
        )
        for layer in self.layers:
            if before_layer is not None:
                before_layer()
            tokens = layer(tokens, (height, width))
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
