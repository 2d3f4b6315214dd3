"""What somebody painted into a label image, so that it can be saved with the clicks and painted again.

Enters: which pixels each stroke covered. Leaves: the numbers that these pixels have at the time of saving, whoever gave them
to the pixels last, in pieces that can be compared, written to a file, and painted again.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_interformer.files import labels_at
from napari_interformer.geometry import Box, cut, unpacked
from napari_interformer.painting import check_there

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from napari_interformer.geometry import BoolMask
    from napari_interformer.image import Plane
    from napari_interformer.painting import LabelArray, LabelImage, Stroke

    Tiles = dict[tuple[Plane, int, int], BoolMask]

TILE = 256  # pixels; strokes are small and far apart
# Pixels: what is painted beyond that, such as the background of a large image at one go, is not noted. It would be read and
# written again after each click.
MOST = 2**24


@dataclass(frozen=True)
class Piece:
    """Pixels of a plane that were painted by hand, and the numbers they have.

    Attributes
    ----------
    plane : tuple of int
        Leading indices.
    box : Box
        Where they lie.
    pixels : bytes
        Which of the box they are, one bit each, in C order.
    numbers : tuple of int
        Theirs, as runs: a number, how many pixels in C order have it, the next number, and so on.
    """

    plane: Plane
    box: Box
    pixels: bytes
    numbers: tuple[int, ...]

    @classmethod
    def of(cls, plane: Plane, box: Box, pixels: BoolMask, labels: NDArray[np.integer]) -> Piece:
        """Return the pixels of a box, with what they are in its labels; both (h, w)."""
        values = labels[pixels]
        starts = np.flatnonzero(np.r_[values.size > 0, values[1:] != values[:-1]])
        lengths = np.diff(np.r_[starts, values.size]).tolist()
        runs = itertools.chain(*zip(values[starts].tolist(), lengths, strict=True))
        return cls(plane, box, np.packbits(pixels).tobytes(), tuple(runs))

    @property
    def mask(self) -> BoolMask:
        """The pixels (h, w)."""
        return unpacked(self.pixels, self.box.shape)

    @property
    def objects(self) -> set[int]:
        """The numbers of the objects that have some of the pixels."""
        return {number for number in self.numbers[::2] if number > 0}

    @property
    def values(self) -> NDArray[np.integer]:
        """The number of each pixel of the mask, in C order."""
        numbers = self.numbers[::2]
        wide = np.uint64 if max(numbers, default=0) > np.iinfo(np.int64).max else np.int64
        return np.repeat(np.array(numbers, wide), self.numbers[1::2])


class ByHand:
    """Which pixels of a label image somebody painted."""

    def __init__(self) -> None:
        self._tiles: Tiles = {}
        self._room = MOST
        self._read: tuple[Piece, ...] = ()

    def add(self, plane: Plane, box: Box, mask: BoolMask) -> Tiles:
        """Note the pixels of a mask (h, w) in a box, unless they are too many; return those that are new."""
        if np.count_nonzero(mask) > MOST:
            return {}
        new: Tiles = {}
        for row in range(box.top // TILE, -(-box.bottom // TILE)):
            for column in range(box.left // TILE, -(-box.right // TILE)):
                key, part = (plane, row, column), cut(mask, box, _tile(row, column), False)
                # One may go over the same pixels again and again.
                part = part & ~self._tiles.get(key, np.zeros_like(part))
                if part.any():
                    new[key] = part
        count = _count(new)
        if count > self._room:
            return {}
        self._room -= count
        for key, part in new.items():
            self._tiles[key] = part | self._tiles.get(key, np.zeros_like(part))
        return new

    def add_stroke(self, stroke: Stroke) -> tuple[Tiles, ...]:
        """Note the pixels of a stroke; return those that are new, for `forget`."""
        return tuple(self.add(*part) for part in stroke.parts())

    def forget(self, noted: Iterable[Tiles]) -> None:
        """Note no more what was new of a stroke that was taken back."""
        for new in noted:
            self._room += _count(new)
            for key, part in new.items():
                self._tiles[key] = self._tiles[key] & ~part
                if not self._tiles[key].any():
                    del self._tiles[key]

    def read(self, labels: LabelImage) -> tuple[Piece, ...]:
        """Return what these pixels are now in a label image, or were when it could be read last."""
        try:
            pieces = self._pieces(labels)
            check_there(labels)  # now: if they had gone before, these are no labels
        except OSError:
            return self._read
        self._read = pieces
        return pieces

    def _pieces(self, labels: LabelImage) -> tuple[Piece, ...]:
        pieces = []
        tiles = tuple(self._tiles.items())  # a worker may read while strokes are painted
        for (plane, row, column), mask in tiles:
            tile = _tile(row, column)
            box = Box.around(mask).shift(tile.top, tile.left)
            there = labels_at(labels, (*plane, *box.slices))
            pieces.append(Piece.of(plane, box, cut(mask, tile, box, False), there))
        return tuple(pieces)

    def include(self, pieces: Iterable[Piece]) -> None:
        """Note the pixels of pieces that are painted again."""
        for piece in pieces:
            self.add(piece.plane, piece.box, piece.mask)


def paint_again(labels: LabelArray, pieces: Iterable[Piece], own: Iterable[int]) -> None:
    """Paint pieces again, but only over pixels that are free or have one of one's `own` numbers."""
    known = np.array([0, *own], labels.dtype)
    for piece in pieces:
        key = (*piece.plane, *piece.box.slices)
        values = np.array(labels_at(labels, key))
        mask = piece.mask
        free = np.isin(values[mask], known)
        values[mask] = np.where(free, piece.values.astype(values.dtype), values[mask])
        labels[key] = values


def _tile(row: int, column: int) -> Box:
    return Box(column * TILE, row * TILE, (column + 1) * TILE, (row + 1) * TILE)


def _count(tiles: Tiles) -> int:
    return sum(int(np.count_nonzero(part)) for part in tiles.values())
