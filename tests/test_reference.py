"""The reference label's states, and what clicks and boxes make of them and of logits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_interformer.geometry import Box
from napari_interformer.reference import (
    BEYOND,
    CERTAIN,
    CUT_COST,
    CUTS,
    ENOUGH,
    SURER,
    State,
    blank,
    draw_click,
    fitting_cut,
    fold,
    obey,
    region,
    sure,
    within,
)

SHAPE = (12, 15)
references = arrays(np.uint8, SHAPE, elements=st.integers(0, 4))
masks = arrays(bool, SHAPE)
pixels = st.tuples(st.integers(0, SHAPE[0] - 1), st.integers(0, SHAPE[1] - 1))
boxes = st.tuples(*[st.integers(-5, 20)] * 4).map(lambda b: Box(*b))


def slow_click(reference, y, x, positive, inner, outer):
    """Say it pixel by pixel."""
    drawn = reference.copy()
    for row in range(reference.shape[0]):
        for column in range(reference.shape[1]):
            distance = ((row - y) ** 2 + (column - x) ** 2) ** 0.5
            state = drawn[row, column]
            if distance <= inner:
                drawn[row, column] = 4 if positive else 0
            elif distance <= inner + outer:
                if state == 2:
                    drawn[row, column] = 3 if positive else 1
                elif state == (1 if positive else 3):
                    drawn[row, column] = 2
    return drawn


@given(references, pixels, st.booleans(), st.integers(0, 5), st.integers(0, 4))
def test_a_click_is_a_disk_of_sure_pixels_in_a_ring_of_possible_ones(
    reference, pixel, positive, inner, outer
):
    before = reference.copy()
    drawn = draw_click(reference, *pixel, positive, inner, outer)
    np.testing.assert_array_equal(drawn, slow_click(reference, *pixel, positive, inner, outer))
    np.testing.assert_array_equal(reference, before)  # pure


@given(references, masks)
def test_folding_moves_every_pixel_one_step_and_leaves_sure_ones(reference, mask):
    step = {True: {2: 3, 1: 2}, False: {2: 1, 3: 2}}
    expected = [step[bool(m)].get(int(s), int(s)) for s, m in zip(reference.flat, mask.flat, strict=True)]
    np.testing.assert_array_equal(fold(reference, mask).ravel(), expected)


@given(masks)
def test_predictions_that_disagree_leave_a_pixel_unknown(mask):
    assert (fold(fold(blank(SHAPE), mask), ~mask) == State.UNKNOWN).all()


@given(references, masks)
def test_sure_pixels_are_never_changed_by_predictions(reference, mask):
    settled = sure(reference)
    np.testing.assert_array_equal(fold(reference, mask)[settled], reference[settled])


@given(
    arrays(np.float32, SHAPE, elements=st.floats(-50, 50, width=32)),
    st.lists(st.tuples(st.integers(-2, 16), st.integers(-2, 16), st.booleans()), max_size=20),
)
def test_every_click_has_its_way_whatever_the_network_says(logits, clicks):
    before = logits.copy()
    bent = obey(logits, clicks)
    np.testing.assert_array_equal(logits, before)
    last = {(y, x): positive for y, x, positive in clicks}  # of two clicks on one pixel the newer counts
    for (y, x), positive in last.items():
        if 0 <= y < SHAPE[0] and 0 <= x < SHAPE[1]:
            assert (bent[y, x] > 0) == positive
    agreed = all(
        logits[y, x] * (1 if positive else -1) >= 0.5
        for (y, x, positive) in clicks
        if 0 <= y < SHAPE[0] and 0 <= x < SHAPE[1]
    )
    if agreed:
        np.testing.assert_array_equal(bent, logits)


def test_a_click_against_the_network_takes_the_error_it_sits_in_and_no_more():
    columns = np.arange(40)
    logits = np.where(columns < 20, 3, -3)[None].repeat(40, 0).astype(np.float32)
    logits[15:24, 4:13] = -3  # a hole of 9 pixels
    bent = obey(logits, [(19, 8, True)])
    assert (bent[18:21, 7:10] > 0).all()
    np.testing.assert_array_equal(bent[:, 20:] > 0, logits[:, 20:] > 0)


@pytest.mark.parametrize("positive", [True, False])
def test_a_click_has_the_last_word_even_where_the_network_has_none(positive):
    bent = obey(np.full(SHAPE, np.nan, np.float32), [(2, 3, positive)])
    assert bent[2, 3] == (CERTAIN if positive else -CERTAIN)


def test_one_pixel_without_a_logit_under_a_click_leaves_the_others_theirs():
    logits = np.full((20, 20), -3, np.float32)
    logits[9, 9] = np.nan
    bent = obey(logits, [(9, 9, True)])
    assert bent[9, 9] == CERTAIN
    np.testing.assert_allclose(bent[:5], -3, atol=1e-3)


def test_a_click_at_the_corner_is_cut_off_at_the_border():
    drawn = draw_click(blank(SHAPE), 0, 0, True, 2)
    assert (drawn == State.FOREGROUND).sum() == 6
    assert (draw_click(blank(SHAPE), -9, -9, True, 2) == State.UNKNOWN).all()


@given(masks, st.integers(1, 64))
def test_the_region_holds_what_is_known_and_lies_on_the_grid(mask, min_size):
    known = np.zeros((128, 160), bool)
    known[40 : 40 + SHAPE[0], 60 : 60 + SHAPE[1]] = mask
    box = region(known, expansion=1.4, min_size=min_size)
    assert all(edge % 32 == 0 for edge in box)
    assert Box.of(known.shape).holds(box)
    if mask.any():
        assert box.holds(Box.around(known))
        assert box.height >= min(min_size, 128) and box.width >= min(min_size, 160)
    else:
        assert box == Box.of(known.shape)


@given(arrays(np.float32, SHAPE, elements=st.floats(-5, 5, width=32)), boxes.filter(lambda b: not b.empty))
def test_logits_are_cut_where_the_mask_fills_the_box(logits, box):
    box = box.intersect(Box.of(SHAPE))
    if box.empty:
        return

    def worth(cut):
        inside = np.zeros(SHAPE, bool)
        inside[box.slices] = logits[box.slices] > cut
        found = Box.around(inside)
        share = 0 if found.empty else found.width * found.height / (box.width * box.height)
        return min(share, ENOUGH) + CUT_COST * cut

    assert worth(fitting_cut(logits, box)) == pytest.approx(max(worth(cut) for cut in CUTS))


@given(arrays(np.float32, SHAPE, elements=st.floats(-3, 3, width=32)), boxes, st.sampled_from([0.0, -1.5]))
def test_a_boxes_mask_lies_in_it_and_where_it_is_surer_a_tenth_beyond(logits, box, lowest):
    mask = within(logits, box, lowest)
    rows, columns = round(BEYOND * box.height), round(BEYOND * box.width)
    for y, x in np.ndindex(SHAPE):
        inside = box.top <= y < box.bottom and box.left <= x < box.right
        near = box.top - rows <= y < box.bottom + rows and box.left - columns <= x < box.right + columns
        assert mask[y, x] == (logits[y, x] > (lowest if inside else SURER) and (inside or near))


def test_a_regions_edges_are_rounded_half_to_even():
    known = np.zeros((96, 96), bool)
    known[40:56, 40:56] = True
    # From 31.5 to 64.5, before it is snapped to the grid.
    assert region(known, expansion=1, min_size=33) == Box(32, 32, 64, 64)


def test_a_click_that_a_later_one_upsets_has_its_way_once_more():
    logits = np.array([[3, 3, 3, -3, -3, -3, -3, -3, -3]], np.float32)
    bent = obey(logits, [(0, 2, False), (0, 3, True)])
    assert (bent > 0).astype(int).tolist() == [[0, 0, 0, 1, 1, 0, 0, 0, 0]]
