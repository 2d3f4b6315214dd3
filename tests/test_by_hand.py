"""What was painted by hand is read, written and painted again, and nothing else with it."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import zarr

from napari_interformer import by_hand
from napari_interformer.by_hand import TILE, ByHand, Piece, paint_again
from napari_interformer.geometry import Box
from napari_interformer.records import Record, Saved

SHAPE = (2, 300, 600)  # planes of more than one tile, whose last ones are cut off


@pytest.fixture
def painted(rng):
    """Return labels, and what was painted there: three strokes on two planes, one across tiles, one over the edge."""
    labels, hand = rng.integers(0, 4, SHAPE).astype(np.uint16), ByHand()
    where = np.zeros(SHAPE, bool)
    for plane, box in ((0, Box(240, 250, 270, 262)), (0, Box(10, 10, 40, 40)), (1, Box(570, 280, 600, 300))):
        mask = rng.random(box.shape) < 0.5
        hand.add((plane,), box, mask)
        where[plane][box.slices] |= mask
    return labels, hand, where


def written(pieces, folder):
    """Return what a file has of pieces."""
    nothing = Record(1, (), size=None, overwrite=False, edited=False)
    return Saved.read(Saved("i", "m", (), nothing, by_hand=pieces).write(folder / "c.json")).by_hand


def test_what_was_painted_is_painted_again_from_a_file_and_nothing_else(painted, tmp_path):
    labels, hand, where = painted
    pieces = hand.read(labels)
    assert pieces == written(pieces, tmp_path) and len(pieces) == 5
    again = np.zeros(SHAPE, np.uint16)
    paint_again(again, pieces, ())
    np.testing.assert_array_equal(again, np.where(where, labels, 0))
    third = ByHand()
    third.include(pieces)
    assert third.read(again) == hand.read(labels)


def test_what_has_other_numbers_now_is_read_as_it_is_now(painted):
    labels, hand, where = painted
    before = hand.read(labels)
    labels[~where] = 9
    assert hand.read(labels) == before
    labels[where] = 9
    assert {number for piece in hand.read(labels) for number in piece.numbers[::2]} == {9}


def test_what_belongs_to_others_is_not_painted_over():
    hand, labels = ByHand(), np.zeros((8, 8), np.int32)
    hand.add((), Box(0, 0, 8, 2), np.ones((2, 8), bool))
    labels[0] = 5
    pieces = hand.read(labels)
    there = np.zeros((8, 8), np.int32)
    there[:, 2:4], there[:, 4:6], there[:, 6:] = 7, 5, 6
    paint_again(there, pieces, [5, 6])
    assert there[0].tolist() == [5, 5, 7, 7, 5, 5, 5, 5] and there[1].tolist() == [0, 0, 7, 7, 0, 0, 0, 0]
    assert there[2].tolist() == [0, 0, 7, 7, 5, 5, 6, 6]


def test_too_much_at_one_go_is_not_noted_and_small_strokes_still_are(monkeypatch):
    monkeypatch.setattr(by_hand, "MOST", 100)
    hand, labels = ByHand(), np.ones((TILE, TILE), np.int32)
    for side in (11, 8, 9, 6):  # 121, 64, 81 and 36 pixels
        hand.add((), Box(0, 20 * side, side, 21 * side), np.ones((side, side), bool))
    (piece,) = hand.read(labels)
    assert piece.box == Box(0, 120, 8, 168) and piece.values.size == 100


def test_labels_that_have_gone_away_are_what_they_were(tmp_path):
    labels, hand = (
        zarr.create_array(tmp_path / "l.zarr", shape=(8, 8), dtype=np.int32, chunks=(8, 8)),
        ByHand(),
    )
    labels[2:4, 2:4] = 3
    hand.add((), Box(2, 2, 4, 4), np.ones((2, 2), bool))
    before = hand.read(labels)
    shutil.rmtree(tmp_path / "l.zarr")
    assert hand.read(labels) == before and before[0].numbers == (3, 4)


@pytest.mark.parametrize("change", [{"numbers": (3, 3)}, {"numbers": (3, 5, 3, -1)}, {"pixels": b"\0"}])
def test_a_damaged_piece_is_refused(change, tmp_path):
    whole = {"plane": (), "box": Box(0, 0, 2, 2), "pixels": b"\xf0", "numbers": (3, 4)}
    assert written((Piece(**whole),), tmp_path) == (Piece(**whole),)
    with pytest.raises(ValueError, match="is something else or damaged"):
        written((Piece(**whole | change),), tmp_path)


def test_the_same_pixels_painted_again_and_again_take_no_more_room(monkeypatch):
    monkeypatch.setattr(by_hand, "MOST", 300)
    hand, labels = ByHand(), np.ones((600, 600), np.int32)
    for corner in (0, 0, 250, 0, 250):  # the second lies in two tiles
        hand.add((), Box(corner, 0, corner + 12, 12), np.ones((12, 12), bool))
    hand.add((), Box(500, 500, 503, 504), np.ones((4, 3), bool))
    assert sum(piece.mask.sum() for piece in hand.read(labels)) == 144 + 144 + 12
    hand.add((), Box(550, 500, 551, 501), np.ones((1, 1), bool))
    assert sum(piece.mask.sum() for piece in hand.read(labels)) == 300
