"""Clicks, scribbles and boxes are made of what people type, and count in an order."""

from __future__ import annotations

import numpy as np
import pytest

from napari_interformer.geometry import Box
from napari_interformer.prompts import BoxPrompt, Click, Mask, Scribble, in_order


@pytest.mark.parametrize("position", [(3, 4), (1, 3, 4), (0, 1, 3, 4)])
def test_a_click_knows_its_plane_and_its_position(position):
    click = Click.at(position, positive=False)
    assert click.position == position
    assert click.plane == position[:-2]
    assert (click.y, click.x, click.positive) == (3, 4, False)


def test_a_box_holds_both_of_its_corners_whichever_they_are():
    box = BoxPrompt((3,), Box(10, 4, 21, 9))
    for corners in [((3, 4, 10), (3, 8, 20)), ((3, 8, 10), (3, 4, 20)), ((3, 8.2, 19.9), (3, 4, 10))]:
        assert BoxPrompt.between(*corners) == box
    assert box.middle == Click((3,), 6, 15)
    with pytest.raises(ValueError, match=r"two corners on one plane; got \(3, 4, 10\) and \(4, 8, 20\)"):
        BoxPrompt.between((3, 4, 10), (4, 8, 20))
    with pytest.raises(ValueError, match="two corners in pixels such as"):
        BoxPrompt.between((4, 10), (8,))


def test_boxes_and_masks_count_before_clicks_and_of_a_planes_boxes_the_newest():
    first, again, other = (BoxPrompt((z,), Box(0, 0, n, n)) for z, n in ((0, 5), (0, 9), (1, 7)))
    mask, clicks = Mask((2,), Box(0, 0, 1, 1), np.ones((1, 1), bool)), [Click((0,), 1, 1), Click((1,), 1, 1)]
    assert in_order([clicks[0], first, mask, other, clicks[1], again]) == (mask, other, again, *clicks)


def test_a_scribble_is_made_of_positions_of_any_kind():
    scribble = Scribble.along(np.array([[2, 1.2, 3.6], [2, 1.4, 4.4], [2, 5, 4]]), np.False_)
    assert scribble == Scribble((2,), ((1, 4), (5, 4)), False)
    assert scribble.middle == Click((2,), 3, 4, False)
    assert in_order([Click((), 1, 1), Scribble((), ((2, 2),)), BoxPrompt((), Box(0, 0, 4, 4))])[0].box


@pytest.mark.parametrize("positive", ["no", 0, -1, None])
def test_a_sign_is_true_or_false(positive):
    for make in (
        lambda: Click((), 1, 2, positive),
        lambda: Click.at((1, 2), positive),
        lambda: Scribble((), ((1, 2),), positive),
        lambda: Scribble.along([(1, 2), (3, 4)], positive),
    ):
        with pytest.raises(ValueError, match="positive must be True"):
            make()
    assert Click.at((1, 2), np.True_).positive is True


def test_prompts_take_lists_and_numbers_where_these_are_clear():
    assert Click(3, 1, 2) == Click([3], 1, 2) == Click((3,), 1, 2)
    assert hash(Scribble([], [[1, 2], [3, 4]])) == hash(Scribble((), ((1, 2), (3, 4))))
    assert BoxPrompt((), (1, 2, 3, 4)).middle == Click((), 3, 2)


@pytest.mark.parametrize("full", [1, 51, 103, 255])
def test_a_mask_is_all_that_is_not_zero(full):
    mask = Mask((), (0, 0, 2, 1), [[0, full]]).mask
    assert mask.dtype == bool and mask.tolist() == [[False, True]]
    with pytest.raises(TypeError, match="A mask must be an array of bool; got float64"):
        Mask((), Box(0, 0, 2, 1), np.ones((1, 2)))


def test_a_mask_is_its_own_whatever_becomes_of_the_array_that_was_given():
    given = np.ones((4, 5), bool)
    mask = Mask((), Box(0, 0, 5, 4), given).mask
    given[0] = False  # it can still be written to
    assert mask.all()
    with pytest.raises(ValueError, match="read-only"):
        mask[0] = False


def test_a_scribble_needs_a_pixel():
    for make in (lambda: Scribble((), ()), lambda: Scribble.along([])):
        with pytest.raises(ValueError, match="at least one position; got none: draw a line"):
            make()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint64, np.int8])
def test_numpy_s_numbers_are_python_s(kind):
    few = np.array([10, 20, 30, 40], kind)
    found = [
        Click(few[:1], few[0], few[1]),
        BoxPrompt(few[0], few),
        Mask(few[0], few, np.ones((20, 20), bool)),
        Scribble(few[0], few.reshape(2, 2)),
    ]
    for prompt in found:
        box = getattr(prompt, "box", ())
        path = [number for stop in getattr(prompt, "path", ()) for number in stop]
        numbers = [
            *prompt.plane,
            *box,
            *path,
            *(getattr(prompt, name) for name in "yx" if isinstance(prompt, Click)),
        ]
        assert {type(number) for number in numbers} == {int}
