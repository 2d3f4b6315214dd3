"""What objects start from while a network learns is what a session makes them start from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from learning import SMALLEST
from napari_interformer.batch_clicks import draw_clicks, expected_all, fold_all
from napari_interformer.reference import State
from napari_interformer.simulate import iou
from napari_interformer.starts import begin, nearly

SIDE = 64


def disks(count, radius=12.0):
    """Return (count, SIDE, SIDE) bool: disks, each a little to the right of the one before."""
    rows, columns = np.ogrid[:SIDE, :SIDE]
    middles = 28 + np.arange(count)[:, None, None] % 8
    return torch.from_numpy((rows - 30) ** 2 + (columns - middles) ** 2 <= radius**2)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("radius", [3.0, 8.0, 20.0])
def test_a_mask_that_is_nearly_right_is_neither_right_nor_far_off(radius, generator):
    targets = disks(200, radius)
    masks = nearly(targets, generator)
    overlaps = [iou(*pair) for pair in zip(masks.numpy(), targets.numpy(), strict=True)]
    assert 0.5 < np.median(overlaps) < 0.85
    larger = masks.sum((1, 2)) > targets.sum((1, 2))
    assert 0.3 < larger.float().mean() < 0.7


def test_what_fills_a_window_is_nearly_all_of_it(generator):
    assert nearly(torch.ones(3, SIDE, SIDE, dtype=torch.bool), generator).all()


def test_without_a_share_all_start_from_nothing(generator):
    targets = disks(5)
    references, clicks = begin(targets, torch.zeros_like(targets), 0.0, SMALLEST, generator)
    assert set(references.unique().tolist()) == {State.UNKNOWN, State.FOREGROUND}
    assert clicks.found.all() and clicks.positive.all() and (clicks.y == 30).all()


def test_of_those_that_start_from_a_mask_half_are_carried_and_half_are_edited(generator):
    targets, ignored = torch.zeros(2, 400, SIDE, SIDE, dtype=torch.bool)
    targets |= disks(400)
    ignored[:, 40:] = True
    targets &= ~ignored
    references, clicks = begin(targets, ignored, 0.5, SMALLEST, generator)
    kinds = {"nothing": 0, "carried": 0, "edited": 0}
    for reference, target, y, x, positive in zip(
        references, targets, clicks.y, clicks.x, clicks.positive, strict=True
    ):
        assert target[y, x] == positive and y < 40
        possible = reference == State.POSSIBLE_FOREGROUND
        if not possible.any():
            kinds["nothing"] += 1
            continue
        carried = bool((reference == State.UNKNOWN).any())
        kinds["carried" if carried else "edited"] += 1
        if carried:
            assert positive
        else:  # the click lies in the error
            assert not (possible & ~ignored[0])[y, x]
    assert kinds["nothing"] > 180 and min(kinds["carried"], kinds["edited"]) > 75, kinds


@pytest.mark.parametrize(("share", "drawn"), [(2.0, "carried"), (1.0, "either")])
def test_they_are_what_a_session_shows_the_network(share, drawn, generator):
    targets = disks(6)
    masks = nearly(targets, torch.Generator().manual_seed(0).set_state(_after(generator, len(targets))))
    references, clicks = begin(targets, torch.zeros_like(targets), share, SMALLEST, generator)
    blank = torch.full(targets.shape, State.UNKNOWN, dtype=torch.uint8)
    sizes = SMALLEST.inner_radius, SMALLEST.outer_radius
    carried = draw_clicks(expected_all(masks), clicks, *sizes)
    edited = draw_clicks(fold_all(blank, masks), clicks, *sizes)
    for n, reference in enumerate(references):
        fits = torch.equal(reference, carried[n]) or (drawn == "either" and torch.equal(reference, edited[n]))
        assert fits, n


def _after(generator, count):
    """Return the generator's state after it has drawn who starts from what."""
    again = torch.Generator().set_state(generator.get_state())
    torch.rand(count, generator=again)
    return again.get_state()
