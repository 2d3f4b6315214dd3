"""Boxes unite like sets of pixels, and what is cut out is pasted back where it was."""

from __future__ import annotations

import os
import pickle
import sys
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import distance_transform_edt

from napari_interformer.geometry import DIVISOR, Box, cut, depth, empty_mask, iou, line, paste

SHAPE = (12, 15)
masks = arrays(bool, SHAPE)
boxes = st.tuples(*[st.integers(-5, 20)] * 4).map(lambda b: Box(*b))


@given(boxes, boxes)
def test_boxes_unite_and_intersect_like_sets_of_pixels(a, b):
    canvas = np.zeros((40, 40), bool)

    def pixels_of(box):
        out = canvas.copy()
        if not box.empty:
            out[box.shift(10, 10).slices] = True
        return out

    both = a.intersect(b)
    np.testing.assert_array_equal(pixels_of(both), pixels_of(a) & pixels_of(b))
    assert a.union(b).holds(a) and a.union(b).holds(b)


@given(masks)
def test_the_box_around_a_mask_is_the_smallest(mask):
    box = Box.around(mask)
    if not mask.any():
        assert box.empty
    else:
        part = mask[box.slices]
        assert part.sum() == mask.sum()
        assert part[0].any() and part[-1].any() and part[:, 0].any() and part[:, -1].any()


@given(boxes)
def test_a_box_is_snapped_to_the_least_one_on_the_grid_that_holds_it(box):
    snapped = box.snapped
    assert all(edge % DIVISOR == 0 for edge in snapped)
    assert all(0 <= edge - on_grid < DIVISOR for edge, on_grid in zip(box[:2], snapped[:2], strict=True))
    assert all(0 <= on_grid - edge < DIVISOR for edge, on_grid in zip(box[2:], snapped[2:], strict=True))


@given(masks, boxes)
def test_cutting_a_window_out_shows_the_plane_and_fill_beyond_it(mask, window):
    if window.empty:
        return
    padded = np.pad(mask, 30)
    expected = padded[window.shift(30, 30).slices]
    np.testing.assert_array_equal(cut(mask, Box.of(SHAPE), window, False), expected)


def test_pasting_puts_an_array_back_where_it_was_cut():
    whole = np.arange(30).reshape(5, 6)
    box = Box(2, 1, 5, 4)
    pasted = paste(cut(whole, Box.of((5, 6)), box, 0), box, np.zeros_like(whole), Box.of((5, 6)))
    np.testing.assert_array_equal(pasted[box.slices], whole[box.slices])
    assert pasted.sum() == whole[box.slices].sum()


def test_a_line_has_all_pixels_between_its_points():
    assert line([(3, 4)]) == [(3, 4)]
    assert line([(0, 0), (0, 3), (2, 3)]) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]
    for path in ([(0, 0), (3, 7)], [(9, 2), (1, 1), (1, 8)]):
        pixels = line(path)
        assert set(path) <= set(pixels)
        assert all(max(abs(a - c), abs(b - d)) == 1 for (a, b), (c, d) in pairwise(pixels))


@given(st.lists(st.tuples(st.integers(-60, 70), st.integers(-60, 70)), min_size=1, max_size=5))
def test_a_line_is_cut_off_beside_a_plane_and_the_same_in_it(path):
    def pieces(pixels):
        groups = groupby(pixels, lambda pixel: 0 <= pixel[0] < SHAPE[0] and 0 <= pixel[1] < SHAPE[1])
        return [list(piece) for inside, piece in groups if inside]

    near = line(path, SHAPE)
    assert pieces(near) == pieces(line(path))
    assert all(-4 <= y <= SHAPE[0] + 4 and -4 <= x <= SHAPE[1] + 4 for y, x in near[1:])


def test_a_line_costs_the_same_wherever_it_ends():
    for far in (10**9, 10**15, 10**300):
        assert len(line([(3, 4), (3, far), (far, far), (-far, 4)], SHAPE)) < 200
        assert line([(3, 4), (3, far)], SHAPE)[: SHAPE[1] - 4] == [(3, x) for x in range(4, SHAPE[1])]


@pytest.mark.parametrize("shape", [(3, 4), (1, 2000, 2100), (2, 20_000, 20_000)])
def test_an_empty_mask_is_empty(shape):
    mask = empty_mask(shape)
    assert mask.shape == shape and mask.dtype == bool
    mask[..., 1:3, 1:3] = True
    assert mask[..., :50, :50].sum() == 4 * (shape[0] if len(shape) == 3 else 1)
    assert pickle.loads(pickle.dumps(mask[..., :3, :3])).sum() == mask[..., :3, :3].sum()
    assert not empty_mask(shape)[..., :50, :50].any()
    with pytest.raises(MemoryError):
        empty_mask((2**20, 2**20, 2**20))


@pytest.mark.skipif(sys.platform != "linux", reason="reads how Linux counts memory")
def test_a_large_mask_takes_memory_only_where_it_is_set_and_is_nobody_else_s():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    mask = empty_mask((10_000, 20_000))
    mask[5, 7] = True
    assert mask.any(axis=1).sum() == 1 and resident() - before < 20e6
    child = os.fork()
    if not child:
        mask[6, 7] = True
        os._exit(0)
    os.waitpid(child, 0)
    assert not mask[6, 7]


@given(masks)
def test_depth_is_the_distance_to_outside_with_borders_outside(region):
    expected = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    whole = np.zeros(region.shape)
    box, depths = depth(region)
    if not box.empty:
        whole[box.slices] = depths
    np.testing.assert_allclose(whole, expected)


@given(masks, masks)
def test_iou_is_intersection_over_union(mask, target):
    union = (mask | target).sum()
    assert iou(mask, target) == ((mask & target).sum() / union if union else 1.0)
    assert iou(mask, target, ignore=np.ones_like(mask)) == 1.0
