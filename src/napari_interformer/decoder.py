"""The light half: what is known of an object, and the image's features, become a mask.

Enters: the four feature maps and the reference label. Leaves: two logits per pixel. I-MSA is the paper's
interactive multi-head self-attention (Huang et al., ICCV 2023, section 3.4), the head is UPerNet's.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import nn

from napari_interformer.encoder import attend
from napari_interformer.reference import State

if TYPE_CHECKING:
    from torch import Tensor

# How much shorter each stage's four pooled copies of the keys are, at the training size.
POOL_RATIOS = ((12, 16, 20, 24), (6, 8, 10, 12), (3, 4, 5, 6), (1, 2, 3, 4))
PSP_SCALES = (1, 2, 3, 6)
CACHED = 2**19  # numbers of a map that are worked on at a time: 2 MB, a core's share of the cache

Region = tuple[int, int, int, int]  # left, top, right, bottom in pixels, multiples of 32


@dataclass(frozen=True)
class Prepared:
    """Whatever of decoding depends on the image alone, for one window.

    Attributes
    ----------
    finest : Tensor
        The finest map, (B, C_0, H / s_0, W / s_0).
    memory : tuple of (Tensor, Tensor)
        Keys and values of each stage's first block, (B, heads, M_i, C_i / heads).
    """

    finest: Tensor
    memory: tuple[tuple[Tensor, Tensor], ...]

    def first(self, count: int) -> Prepared:
        """Return what belongs to the first `count` objects."""
        return Prepared(
            self.finest[:count], tuple((key[:count], value[:count]) for key, value in self.memory)
        )


def pooled_length(length: int, ratio: int, train_length: int) -> int:
    """Return to how many cells an axis of `length` is pooled (round half to even, as in the reference)."""
    if ratio == 1:
        return length
    return max(1, round(length / round(length / min(train_length / ratio, length))))


def _clicking(x: Tensor) -> bool:
    """Whether this is a click, on a CPU: then channels lie last, and operations that only training needs apart are merged."""
    return not torch.is_grad_enabled() and x.device.type == "cpu"


class PoolingAttention(nn.Module):
    """Attention of all positions to four max-pooled copies of another map."""

    def __init__(self, dim: int, heads: int, ratios: tuple[int, ...], train_length: int) -> None:
        super().__init__()
        self.heads, self.ratios, self.train_length = heads, ratios, train_length
        self.query_proj = nn.Linear(dim, dim)
        self.key_value_proj = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.dconvs = nn.ModuleList(nn.Conv2d(dim, dim, 3, 1, 1, groups=dim) for _ in ratios)

    def keys(self, kv: Tensor) -> tuple[Tensor, Tensor]:
        """Pool (B, C, H, W) into keys and values, each (B, heads, M, C / heads)."""
        batch, dim, height, width = kv.shape
        pooled = []
        for ratio, dconv in zip(self.ratios, self.dconvs, strict=True):
            size = tuple(pooled_length(n, ratio, self.train_length) for n in (height, width))
            cells = kv if size == (height, width) else F.adaptive_max_pool2d(kv, size)
            pooled.append((cells + dconv(cells)).flatten(2))
        tokens = self.norm(torch.cat(pooled, dim=2).transpose(1, 2))  # (B, M, C)
        pair = self.key_value_proj(tokens).view(batch, -1, 2, self.heads, dim // self.heads)
        key, value = pair.permute(2, 0, 3, 1, 4)
        return key, value

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor]) -> Tensor:
        """Attend from `x` (B, C, H, W) to `memory`."""
        batch, dim, height, width = x.shape
        query = self.query_proj(x.flatten(2).transpose(1, 2))  # (B, H * W, C)
        query = query.view(batch, height * width, self.heads, dim // self.heads).transpose(1, 2)
        out = attend(query, *memory).transpose(1, 2).reshape(batch, height * width, dim)
        return self.proj(out).transpose(1, 2).reshape(batch, dim, height, width)  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pooling attention and a convolutional MLP, both residual."""

    def __init__(
        self, dim: int, heads: int, ratios: tuple[int, ...], train_length: int, mlp_ratio: int
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(1, dim)
        self.norm_kv = nn.GroupNorm(1, dim)
        self.attn = PoolingAttention(dim, heads, ratios, train_length)
        self.norm2 = nn.GroupNorm(1, dim)
        wide = mlp_ratio * dim
        self.mlp = nn.Sequential(
            nn.Conv2d(dim, wide, 1),
            nn.Hardswish(),
            nn.Conv2d(wide, wide, 3, 1, 1, groups=wide),
            nn.Hardswish(),
            nn.Conv2d(wide, dim, 1),
        )

    def keys(self, kv: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of (B, C, H, W)."""
        return self.attn.keys(self.norm_kv(kv))

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Attend from `x` (B, C, H, W) to `memory`, or to itself."""
        x = x + self.attn(self.norm1(x), self.keys(x) if memory is None else memory)
        return x + (self._by_parts if _clicking(x) else self.mlp)(self.norm2(x))

    def _by_parts(self, x: Tensor) -> Tensor:
        """Run the MLP some of its wide channels at a time: what stays in the cache need not be waited for."""
        up, down = cast("nn.Conv2d", self.mlp[0]), cast("nn.Conv2d", self.mlp[4])
        depthwise = cast("nn.Conv2d", self.mlp[2])
        step = max(32, CACHED // (x.shape[2] * x.shape[3]))
        out = None
        for i in range(0, len(up.weight), step):
            part = slice(i, i + step)
            wide = F.hardswish(F.conv2d(x, up.weight[part], cast("Tensor", up.bias)[part]), inplace=True)
            groups = wide.shape[1]
            wide = F.conv2d(
                wide, depthwise.weight[part], cast("Tensor", depthwise.bias)[part], padding=1, groups=groups
            )
            wide = F.hardswish(wide, inplace=True)
            bias = down.bias if i == 0 else None
            added = F.conv2d(wide, down.weight[:, part].contiguous(memory_format=torch.channels_last), bias)
            out = added if out is None else out.add_(added)
        return cast("Tensor", out)


class PatchMerging(nn.Module):
    """3x3 stride-2 merging to the next stage's channels."""

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(9 * dim)
        self.reduction = nn.Linear(9 * dim, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Halve (B, C, H, W) to (B, D, H / 2, W / 2)."""
        if _clicking(x):
            return self._as_convolution(x)
        cut = (
            _patches
            if x.device.type == "cuda"
            else functools.partial(F.unfold, kernel_size=3, padding=1, stride=2)
        )
        patches = cut(x).transpose(1, 2)  # (B, H / 2 * W / 2, 9 * C)
        out = self.reduction(self.norm(patches)).transpose(1, 2)
        return out.reshape(*out.shape[:2], -(-x.shape[2] // 2), -(-x.shape[3] // 2))  # type: ignore[no-any-return]

    def _as_convolution(self, x: Tensor) -> Tensor:
        """Do the same without laying out the patches.

        With mean m and deviation s of a patch p, W ((p - m) / s * g + b) = ((W g) p - m (W g) 1) / s + W b, and
        (W g) p is a 3x3 convolution.
        """
        scaled = self.reduction.weight * self.norm.weight  # (D, 9 * C), kernel position fastest
        kernel = scaled.view(len(scaled), x.shape[1], 3, 3).contiguous(memory_format=torch.channels_last)
        out = F.conv2d(x, kernel, stride=2, padding=1)
        sums = torch.cat([x.mean(1, keepdim=True), x.square().mean(1, keepdim=True)])  # (2 * B, 1, H, W)
        mean, square = F.avg_pool2d(sums, 3, 2, 1).chunk(2)  # what lies beyond the border counts as zero
        deviation = (square - mean.square()).clamp_min(0).add(self.norm.eps).sqrt()
        out = (out - mean * scaled.sum(1).view(1, -1, 1, 1)) / deviation
        return out + (self.reduction.weight @ self.norm.bias).view(1, -1, 1, 1)


def _patches(x: Tensor) -> Tensor:
    """Return the 3x3 patches of (B, C, H, W) at every other pixel, (B, 9 * C, H / 2 * W / 2).

    As `F.unfold` does, which on a GPU goes image by image.
    """
    batch, channels, height, width = x.shape
    padded = F.pad(x, (1, 1, 1, 1))
    shifted = [padded[:, :, dy : dy + height : 2, dx : dx + width : 2] for dy in range(3) for dx in range(3)]
    return torch.stack(shifted, 2).reshape(batch, 9 * channels, -1)


class Stage(nn.Module):
    """Blocks of one stride; the last stage, and refine stages, have no merging."""

    def __init__(self, blocks: list[Block], downsample: PatchMerging | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        if downsample is not None:
            self.downsample = downsample

    def keys(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of the first block, which attends to `level` (B, C, H, W)."""
        return cast("Block", self.blocks[0]).keys(level)

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Run the blocks on (B, C, H, W): the first attends to `memory` if there is one, the rest to themselves."""
        for block in self.blocks:
            x = block(x, memory)
            memory = None
        return x


class IMSA(nn.Module):
    """Interactive multi-head self-attention: maps and reference label to four levels.

    Parameters
    ----------
    stored : tuple of int
        Channels of the encoder's maps; where they are fewer than `channels`, a 1x1 convolution widens them.
    channels, heads, mlp_ratios : tuple of int
        One per stage.
    depths : tuple of int
        Blocks per stage; the first `coarse_depths` see the whole window, the rest only the region.
    strides : tuple of int
        Pixels per cell and axis of each stage.
    window : int
        Training size in pixels; fixes how far keys are pooled.
    """

    def __init__(
        self,
        *,
        stored: tuple[int, int, int, int],
        channels: tuple[int, int, int, int],
        depths: tuple[int, int, int, int],
        coarse_depths: tuple[int, int, int, int],
        heads: tuple[int, int, int, int],
        mlp_ratios: tuple[int, int, int, int],
        strides: tuple[int, int, int, int],
        window: int,
    ) -> None:
        super().__init__()
        self.strides = strides
        self.patch_embed = nn.Parameter(torch.zeros(len(State), channels[0]))
        self.widen = nn.ModuleList(
            nn.Identity() if few == many else nn.Conv2d(few, many, 1)
            for few, many in zip(stored, channels, strict=True)
        )
        self.stages, self.refine_stages = nn.ModuleList(), nn.ModuleList()
        for i, dim in enumerate(channels):
            blocks = [
                Block(dim, heads[i], POOL_RATIOS[i], window // strides[i], mlp_ratios[i])
                for _ in range(depths[i])
            ]
            merging = PatchMerging(dim, channels[i + 1]) if i + 1 < len(channels) else None
            self.stages.append(Stage(blocks[: coarse_depths[i]], merging))
            self.refine_stages.append(Stage(blocks[coarse_depths[i] :]))
            setattr(self, f"norm{i}", nn.GroupNorm(1, dim))

    def prepare(self, maps: list[Tensor]) -> Prepared:
        """Compute what the clicks do not change: keys and values of each stage's first block."""
        # The encoder leaves channels-last maps; PyTorch 2.13's CPU backward pass crashes on the mixture.
        maps = [widen(level.contiguous()) for widen, level in zip(self.widen, maps, strict=True)]
        stages = cast("list[Stage]", list(self.stages))
        return Prepared(maps[0], tuple(stage.keys(level) for stage, level in zip(stages, maps, strict=True)))

    def forward(self, prepared: Prepared, reference: Tensor, roi: Region | None) -> list[Tensor]:
        """Return four levels (B, C_i, H / s_i, W / s_i); `reference` is (B, H, W) uint8."""
        x = prepared.finest + self.embed(reference, prepared.finest)
        if _clicking(x):
            x = x.contiguous(memory_format=torch.channels_last)
        levels = []
        for i, stage in enumerate(cast("list[Stage]", list(self.stages))):
            x = stage(x, prepared.memory[i])
            level = _refine(x, cast("Stage", self.refine_stages[i]), roi, self.strides[i])
            levels.append(self.get_submodule(f"norm{i}")(level))
            if i + 1 < len(self.stages):
                x = stage.downsample(x)
        return levels

    def embed(self, reference: Tensor, like: Tensor) -> Tensor:
        """Embed (B, H, W) uint8 states at the finest stride: (B, C, H / s, W / s).

        The method resizes the full-size embedding bilinearly without corner alignment; for an even stride that
        is the mean of the four middle pixels of each cell, so the embedding is looked up there alone.
        """
        stride = self.strides[0]
        middle = (stride // 2 - 1, stride // 2)
        # Each (B, H / s, W / s).
        corners = [reference[:, y::stride, x::stride] for y in middle for x in middle]
        states = torch.arange(len(State), device=reference.device)
        if not _clicking(like):  # looking up has a slow backward pass
            cells = torch.stack(corners, 3)
            vectors = (cells[..., None] == states).to(self.patch_embed.dtype).mean(3) @ self.patch_embed
        else:  # four states have few combinations, so their means are looked up at once
            combination = torch.zeros_like(corners[0], dtype=torch.int32)
            for corner in corners:
                combination = combination * len(State) + corner
            means = self.patch_embed[torch.cartesian_prod(*[states] * 4)].mean(1)
            vectors = F.embedding(combination, means)
        return vectors.permute(0, 3, 1, 2).to(like.dtype)


def _refine(x: Tensor, stage: Stage, roi: Region | None, stride: int) -> Tensor:
    if len(stage.blocks) == 0:
        return x
    if roi is None:
        return stage(x)  # type: ignore[no-any-return]
    left, top, right, bottom = (n // stride for n in roi)
    pasted = x.clone()
    pasted[:, :, top:bottom, left:right] = stage(x[:, :, top:bottom, left:right])
    return pasted


class ConvModule(nn.Module):
    """Convolution without bias, norm, ReLU.

    The paper's norm is "batch"; "group" (one group per window) needs no batch, which a CPU could not hold.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, norm: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        # called bn whichever it is: the name in the reference's files
        self.bn = nn.BatchNorm2d(outputs) if norm == "batch" else nn.GroupNorm(1, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the size (B, C, H, W)."""
        if not _clicking(x):
            return F.relu(self.bn(self.conv(x)))
        weight, bias = self.folded()
        return self.finish(F.conv2d(x, weight, bias, padding=self.conv.padding))

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Return the convolution's kernel and bias; a batch norm's fixed statistics are in them."""
        if not self._fixed:
            return self.conv.weight, None
        mean, variance = cast("Tensor", self.bn.running_mean), cast("Tensor", self.bn.running_var)
        scale = self.bn.weight / (variance + self.bn.eps).sqrt()
        return self.conv.weight * scale.view(-1, 1, 1, 1), self.bn.bias - mean * scale

    def finish(self, x: Tensor) -> Tensor:
        """Apply what is left after the folded convolution: a norm that depends on the map, and ReLU in place."""
        return (x if self._fixed else self.bn(x)).relu_()

    @property
    def _fixed(self) -> bool:
        return isinstance(self.bn, nn.BatchNorm2d) and not self.training


class Head(nn.Module):
    """UPerNet: four levels to logits.

    Parameters
    ----------
    channels : tuple of int
        Channels of the levels.
    width : int
        Channels inside the head.
    parts : int
        Logits per cell and axis of the finest level: 1 in the paper; more are predicted from the same
        vector (sub-pixel convolution).
    norm : str
        "batch" as in the paper, or "group".
    """

    def __init__(self, channels: tuple[int, int, int, int], width: int, parts: int, norm: str) -> None:
        super().__init__()
        self.parts = parts
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(scale), ConvModule(channels[3], width, 1, norm))
            for scale in PSP_SCALES
        )
        self.bottleneck = ConvModule(channels[3] + len(PSP_SCALES) * width, width, 3, norm)
        self.lateral_convs = nn.ModuleList(ConvModule(dim, width, 1, norm) for dim in channels[:3])
        self.fpn_convs = nn.ModuleList(ConvModule(width, width, 3, norm) for _ in channels[:3])
        self.fpn_bottleneck = ConvModule(4 * width, width, 3, norm)
        self.dropout = nn.Dropout2d(0.1)
        self.conv_seg = nn.Conv2d(width, 2 * self.parts**2, 1)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Return (B, 2, parts * h, parts * w), h and w those of the finest level."""
        top = levels[3]
        context = [_resize(module(top), top) for module in self.psp_modules]
        pyramid = [conv(level) for conv, level in zip(self.lateral_convs, levels[:3], strict=True)]
        pyramid.append(self.bottleneck(torch.cat([top, *context], dim=1)))
        for i in (2, 1, 0):
            pyramid[i] = pyramid[i] + _resize(pyramid[i + 1], pyramid[i])
        fine = [conv(level) for conv, level in zip(self.fpn_convs, pyramid[:3], strict=True)]
        joined = self._joined([*fine, pyramid[3]])
        out = self.conv_seg(self.dropout(joined))
        return out if self.parts == 1 else F.pixel_shuffle(out, self.parts)

    def _joined(self, levels: list[Tensor]) -> Tensor:
        """Resize all levels to the first one's size, put them side by side, and apply `fpn_bottleneck`."""
        if not _clicking(levels[0]):
            return self.fpn_bottleneck(torch.cat([_resize(level, levels[0]) for level in levels], dim=1))  # type: ignore[no-any-return]
        # The same level by level, without laying the largest map of all side by side.
        weight, bias = self.fpn_bottleneck.folded()
        weights = weight.chunk(len(levels), 1)
        out = F.conv2d(levels[0], weights[0], bias, padding=1)
        for level, weight in zip(levels[1:], weights[1:], strict=True):
            out += enlarged_convolution(level, weight, (out.shape[2], out.shape[3]))
        return self.fpn_bottleneck.finish(out)


class AuxiliaryHead(nn.Module):
    """A second opinion on the third level, for training only."""

    def __init__(self, dim: int, width: int, norm: str) -> None:
        super().__init__()
        self.convs = nn.ModuleList([ConvModule(dim, width, 3, norm)])
        self.conv_seg = nn.Conv2d(width, 2, 1)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Return (B, 2, H / s_2, W / s_2)."""
        return self.conv_seg(self.convs[0](levels[2]))  # type: ignore[no-any-return]


def enlarged_convolution(x: Tensor, weight: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map bilinearly and convolve it 3x3, padded with zeros, without making the resized map where that is dearer.

    Both are linear, so the weights can act on the small map, and what is left along each axis is one matrix: enlarge, then
    shift by the kernel's column (or row). A third to a seventh of the multiplications at 4 and 8 times the size.

    Parameters
    ----------
    x : (B, C, h, w)
        The small map.
    weight : (D, C, 3, 3)
        The kernel.
    size : (H, W)
        The large size.

    Returns
    -------
    Tensor
        (B, D, H, W).
    """
    height, width = x.shape[2:]
    if size[0] < 4 * height or size[1] < 4 * width:
        return F.conv2d(resize(x, size), weight, padding=1)
    batch, outputs = len(x), len(weight)
    kernel = weight.permute(1, 3, 2, 0).reshape(x.shape[1], -1)  # (C, dx * dy * D)
    parts = x.permute(0, 2, 3, 1) @ kernel  # (B, h, w, dx * dy * D)
    parts = parts.view(batch, height, width * 3, 3 * outputs)  # (B, h, w * dx, dy * D)
    parts = _enlarge_and_shift(width, size[1]) @ parts  # (B, h, W, dy * D)
    parts = parts.view(batch, height, size[1], 3, outputs).transpose(2, 3)  # (B, h, dy, W, D)
    parts = parts.reshape(batch, height * 3, size[1] * outputs)
    out = _enlarge_and_shift(height, size[0]) @ parts  # (B, H, W * D)
    return out.view(batch, *size, outputs).permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=16)
def _enlarge_and_shift(length: int, size: int) -> Tensor:
    """Return the matrix (size, length * 3) from `length` cells and three kernel positions to `size` cells."""
    with torch.inference_mode(False):  # the cache outlives it
        padded = F.pad(_enlarge(length, size, torch.device("cpu")), (0, 0, 1, 1))
        return torch.stack([padded[i : i + size] for i in range(3)], dim=2).reshape(size, length * 3)


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return resize(x, (like.shape[2], like.shape[3]))


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, H, W) bilinearly, corners not aligned."""
    if x.shape[2:] == size:
        return x
    if x.device.type == "cuda" and torch.is_autocast_enabled("cuda"):
        # While training the maps are small and many, on which the GPU's own resizing is twenty times slower.
        down, across = (_enlarge(a, b, x.device) for a, b in zip(x.shape[2:], size, strict=True))
        return down @ (x @ across.t())
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


@functools.lru_cache(maxsize=64)
def _enlarge(length: int, size: int, device: torch.device) -> Tensor:
    """Return the matrix (size, length) that resizes an axis bilinearly."""
    with torch.inference_mode(False):  # the cache outlives it
        line = torch.eye(length, device=device)[:, None]
        return F.interpolate(line, size=size, mode="linear")[:, 0].t().contiguous()
