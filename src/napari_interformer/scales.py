"""The image at other magnifications, encoded window by window when an object asks for it.

A network sees objects of 10 and of 3,000 pixels best at about the size of those it was trained on. Level 0 is the image as it
is, and lies in the features; level n is magnified by 2 to the power n, so that -2 is a quarter of the size. *Working* pixels
are those of a level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from napari_interformer.features import cut_maps
from napari_interformer.geometry import Box

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_interformer.decoding import Decoder
    from napari_interformer.image import Planes

FINEST = 1  # what is magnified more than twice shows nothing new
STRIP = 1024  # rows of the image that are read at once: chunks of lazy arrays are read once, and memory stays small
HALO = 32  # working pixels that are encoded around a window and thrown away


def size_at(size: tuple[int, int], level: int) -> tuple[int, int]:
    """Return Y and X of a plane in working pixels; the last ones, partial or not, count."""
    height, width = (length << level if level >= 0 else -(-length >> -level) for length in size)
    return height, width


def level_for(extent: float, diameters: Sequence[float]) -> int:
    """Return the level at which an object that many pixels across is between `diameters` wide, or nearly so."""
    least, most = diameters
    level = 0
    while extent * 2.0**level > most:
        level -= 1
    while extent * 2.0**level < least and level < FINEST:
        level += 1
    return level


def working(position: int, level: int) -> int:
    """Return in which working pixel (the first, if there are several) a pixel of the image lies."""
    return position << level if level >= 0 else position >> -level


def maps_at(
    planes: Planes, model: Decoder, plane: tuple[int, ...], level: int, box: Box
) -> list[NDArray[np.float32]]:
    """Encode a box of a plane at a level.

    Parameters
    ----------
    planes : Planes
        The image.
    model : InterFormer
        Its device does the work.
    plane : tuple of int
        Leading indices.
    level : int
        See the module.
    box : Box
        In working pixels, multiples of 32, inside the plane rounded up to 32.

    Returns
    -------
    list of (C_i, h / s_i, w / s_i) float32
        As `Features.window` returns them.
    """
    wide = box.grown(HALO, HALO).intersect(Box.of(size_at(planes.size, level)))
    maps = model.encode_pixels(magnified(planes, plane, level, wide)[None])
    return cut_maps([one[0] for one in maps], model.strides, box, wide)


def magnified(planes: Planes, plane: tuple[int, ...], level: int, box: Box) -> NDArray[np.float32]:
    """Read a box of a plane at a level: (h, w, 3) float32 in 0..255; `box` in working pixels, inside the plane."""
    if level < 0:
        many = 1 << -level
        out = np.empty((box.height, box.width, 3), np.float32)
        rows = max(1, STRIP // many)
        for first in range(0, box.height, rows):
            last = min(first + rows, box.height)
            strip = Box(box.left, box.top + first, box.right, box.top + last)
            out[first:last] = shrunk(planes.read(plane, covered(strip, level, planes.size)), many)
        return out
    many = 1 << level
    seen = Box(
        box.left // many - 1, box.top // many - 1, -(-box.right // many) + 1, -(-box.bottom // many) + 1
    )
    seen = seen.intersect(Box.of(planes.size))
    pixels = torch.from_numpy(planes.read(plane, seen)).permute(2, 0, 1)[None]
    pixels = F.interpolate(pixels, scale_factor=many, mode="bilinear", align_corners=False)[0].permute(
        1, 2, 0
    )
    top, left = box.top - seen.top * many, box.left - seen.left * many
    return np.ascontiguousarray(pixels[top : top + box.height, left : left + box.width].numpy())


def covered(box: Box, level: int, size: tuple[int, int]) -> Box:
    """Return the image's pixels under a box of working ones, whose sides are multiples of a pixel's."""
    many = 1 << abs(level)
    return Box(*(n * many if level < 0 else n // many for n in box)).intersect(Box.of(size))


def shrunk(pixels: NDArray[np.float32], many: int) -> NDArray[np.float32]:
    """Return means (y, x, C) of blocks of `many` x `many` pixels (Y, X, C); those at the end may be partial."""
    for axis in (0, 1):
        starts = np.arange(0, pixels.shape[axis], many)
        counts = np.minimum(many, pixels.shape[axis] - starts).astype(np.float32)
        pixels = np.add.reduceat(pixels, starts, axis=axis) / np.expand_dims(counts, (1 - axis, 2))
    return pixels


def to_working(mask: NDArray[np.bool_], box: Box, level: int) -> tuple[Box, NDArray[np.bool_]]:
    """Return a mask of the image in working pixels: those of which at least half is masked."""
    many = 1 << abs(level)
    if level >= 0:
        return Box(*(n * many for n in box)), mask.repeat(many, 0).repeat(many, 1)
    target = Box(box.left // many, box.top // many, -(-box.right // many), -(-box.bottom // many))
    padded = np.pad(
        mask,
        (
            (box.top - target.top * many, target.bottom * many - box.bottom),
            (box.left - target.left * many, target.right * many - box.right),
        ),
    )
    share = padded.reshape(target.height, many, target.width, many).mean(axis=(1, 3))
    return target, share >= 0.5


def to_image(logits: NDArray[np.float32], box: Box, level: int) -> tuple[Box, NDArray[np.float32]]:
    """Return logits of a working box in pixels of the image; at coarse levels only those around where they are positive."""
    if level == 0:
        return box, logits
    many = 1 << abs(level)
    if level > 0:
        target = Box(*(n // many for n in box))
        return target, logits.reshape(target.height, many, target.width, many).mean(axis=(1, 3))
    found = Box.around(logits > 0)
    if found.empty:
        return Box(box.left * many, box.top * many, box.left * many, box.top * many), np.empty(
            (0, 0), np.float32
        )
    found = found.grown(2, 2).intersect(Box.of(logits.shape))
    part = torch.from_numpy(np.ascontiguousarray(logits[found.slices]))[None, None]
    fine = F.interpolate(part, scale_factor=many, mode="bilinear", align_corners=False)[0, 0].numpy()
    placed = found.shift(box.top, box.left)
    return Box(*(n * many for n in placed)), fine
