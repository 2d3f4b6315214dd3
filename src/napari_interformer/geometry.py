"""Rectangles and masks of pixels: where they lie, what of an array they show, and the grid on which a plane is divided.

Plain values and pure functions over NumPy arrays.
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.ndimage import distance_transform_edt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    BoolMask = NDArray[np.bool_]


DIVISOR = 32  # planes are padded to multiples of this, on which tiles, windows and regions begin and end
LARGE = 1 << 22  # pixels: more than that is not cleared needlessly
MARGIN = 2  # pixels beyond a plane's edges that are kept of a line: at least one where it leaves the plane


class Box(NamedTuple):
    """A half-open rectangle of pixels, in the reference's order: columns first.

    Attributes
    ----------
    left, top : int
        First column and first row within, in pixels, counted from 0.
    right, bottom : int
        First column and first row that are no longer within.
    """

    left: int
    top: int
    right: int
    bottom: int

    @classmethod
    def of(cls, shape: tuple[int, int]) -> Box:
        """Return the box that covers a whole plane of `shape` (Y, X)."""
        return cls(0, 0, shape[1], shape[0])

    @classmethod
    def pixel(cls, y: int, x: int) -> Box:
        """Return the box of one pixel."""
        return cls(x, y, x + 1, y + 1)

    @classmethod
    def around(cls, mask: BoolMask) -> Box:
        """Return the smallest box that holds every True pixel of `mask` (Y, X); empty where there is none."""
        rows = np.flatnonzero(mask.any(axis=1))
        if rows.size == 0:
            return cls(0, 0, 0, 0)
        columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
        return cls(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)

    @property
    def height(self) -> int:
        """Rows covered."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns covered."""
        return self.right - self.left

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns covered, as of an array."""
        return self.height, self.width

    @property
    def extent(self) -> int:
        """The longer of its sides: how large an object is across that the box holds tightly."""
        return max(self.shape)

    @property
    def empty(self) -> bool:
        """Whether no pixel is covered."""
        return self.height <= 0 or self.width <= 0

    @classmethod
    def at(cls, rows: slice, columns: slice) -> Box:
        """Return the box of two slices with a beginning and an end; `slices` is the reverse."""
        return cls(columns.start, rows.start, columns.stop, rows.stop)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Row and column slices for indexing a plane."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def holds(self, other: Box) -> bool:
        """Whether `other` lies inside this box (an empty one always does)."""
        return other.empty or self.union(other) == self

    def has(self, y: int, x: int) -> bool:
        """Whether a pixel is covered."""
        return self.top <= y < self.bottom and self.left <= x < self.right

    def union(self, other: Box) -> Box:
        """Return the smallest box that holds both; an empty box adds nothing."""
        if self.empty or other.empty:
            return other if self.empty else self
        return Box(
            min(self.left, other.left),
            min(self.top, other.top),
            max(self.right, other.right),
            max(self.bottom, other.bottom),
        )

    def intersect(self, other: Box) -> Box:
        """Return the pixels that both cover; may be empty."""
        return Box(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )

    def shift(self, rows: int, columns: int) -> Box:
        """Return the box moved by `rows` and `columns` pixels."""
        return Box(self.left + columns, self.top + rows, self.right + columns, self.bottom + rows)

    def grown(self, rows: int, columns: int) -> Box:
        """Return the box with `rows` pixels more above and below, and `columns` more to the left and right."""
        return Box(self.left - columns, self.top - rows, self.right + columns, self.bottom + rows)

    @property
    def snapped(self) -> Box:
        """The box grown outward to multiples of `DIVISOR`."""
        left, top = (edge // DIVISOR * DIVISOR for edge in self[:2])
        right, bottom = map(rounded_up, self[2:])
        return Box(left, top, right, bottom)


def rounded_up(length: float) -> int:
    """Return the smallest multiple of `DIVISOR` that is not below a length, whose fraction does not count."""
    return -(-int(length) // DIVISOR) * DIVISOR


def placed(centre: float, side: int, length: int) -> int:
    """Return where a window of that side begins: on the grid of `DIVISOR`, about the centre, within a length."""
    return min(max(round((centre - side / 2) / DIVISOR) * DIVISOR, 0), length - side)


def line(path: Sequence[tuple[int, int]], size: tuple[int, int] | None = None) -> list[tuple[int, int]]:
    """Return the row and column of all pixels on a path, in order, none twice in a row.

    With the `size` (Y, X) of a plane, what lies farther outside than the pixels beside it is left out, except the first.
    """
    pixels = [path[0]]
    for start, stop in itertools.pairwise(path):
        steps = max(abs(end - begin) for begin, end in zip(start, stop, strict=True))
        slopes = [(end - begin) / max(steps, 1) for begin, end in zip(start, stop, strict=True)]
        first, last = 1, steps
        if size is not None:
            for begin, slope, length in zip(start, slopes, size, strict=True):
                if slope != 0:
                    entered, left = sorted(((-MARGIN - begin) / slope, (length - 1 + MARGIN - begin) / slope))
                    first, last = max(first, math.floor(entered)), min(last, math.ceil(left))
                elif not -MARGIN < begin < length - 1 + MARGIN:
                    last = 0
        at = np.arange(max(0, last - first + 1)) + float(first)
        rows, columns = (
            np.rint(begin + slope * at).astype(int).tolist()
            for begin, slope in zip(start, slopes, strict=True)
        )
        pixels += zip(rows, columns, strict=True)
    return pixels


def unpacked(bits: bytes, shape: tuple[int, int]) -> BoolMask:
    """Return the mask (h, w) of which `numpy.packbits` made these bytes."""
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=shape[0] * shape[1]).astype(bool).reshape(shape)


def cut(array: NDArray[Any], box: Box, window: Box, fill: Any) -> NDArray[Any]:
    """Return what `window` shows of an array that covers `box`, with `fill` beyond it."""
    if box == window:
        return array
    out = np.full(window.shape, fill, array.dtype)
    both = box.intersect(window)
    if not both.empty:
        out[both.shift(-window.top, -window.left).slices] = array[both.shift(-box.top, -box.left).slices]
    return out


def paste(array: NDArray[Any], box: Box, onto: NDArray[Any], whole: Box) -> NDArray[Any]:
    """Return `onto`, which covers `whole`, with an array that covers `box` put in."""
    out = onto.copy()
    out[box.shift(-whole.top, -whole.left).slices] = array
    return out


def depth(region: BoolMask) -> tuple[Box, NDArray[np.float64]]:
    """Return each pixel's distance to the nearest one outside `region`; borders count as outside.

    Only the region's own box is transformed, which is what makes this cheap; it is returned with the depths.
    """
    box = Box.around(region)
    if box.empty:
        return box, np.zeros((0, 0))
    padded = np.pad(region[box.slices], 1)
    return box, distance_transform_edt(padded)[1:-1, 1:-1]


def iou(mask: BoolMask, target: BoolMask, ignore: BoolMask | None = None) -> float:
    """Return intersection over union of two (Y, X) masks, 1 where both are empty."""
    if ignore is not None:
        mask, target = mask & ~ignore, target & ~ignore
    union = int(np.count_nonzero(mask | target))
    return int(np.count_nonzero(mask & target)) / union if union else 1.0


def empty_mask(shape: Sequence[int]) -> BoolMask:
    """Return a mask without a pixel, of which only what is set takes memory and time, however large it is.

    `np.zeros` may get memory that was in use before, and then clears all of it: 40 ms for 20,000 x 20,000 pixels.
    """
    many = math.prod(shape)
    if many < LARGE:
        return np.zeros(shape, bool)
    try:
        # Shared memory, the default, would be taken when it is read as well.
        options = {} if os.name == "nt" else {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}
        return np.frombuffer(mmap.mmap(-1, many, **options), bool).reshape(shape)
    except (OSError, OverflowError) as error:
        raise MemoryError(f"A mask of {many / 1e9:.1f} GB is more than there is memory for.") from error
