"""Blobs, tubes, mosaics: the truth behind synthetic pictures."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.measure import label as connected

from napari_interformer.shapes import draw, mosaic, nest, outlines, scatter, shape_of, tube, walk, whole


@pytest.mark.parametrize("radius", [4, 20, 40, 250])
def test_a_shape_has_about_the_radius_asked_for(radius):
    mask = shape_of(np.random.default_rng(0), radius, 0.1)
    assert abs(np.sqrt(mask.sum() / np.pi) / radius - 1) < 0.15
    assert connected(mask).max() == 1
    assert mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any()  # its own box


def test_a_large_shape_is_smooth_although_it_is_computed_coarsely():
    mask = shape_of(np.random.default_rng(0), 200, 0.1)
    edge = np.array([np.flatnonzero(row)[0] for row in mask[60:-60]])
    assert np.abs(np.diff(edge, 2)).max() <= 2


def test_scattered_objects_cover_the_share_asked_for_and_touch_if_gathered():
    labels = scatter(np.random.default_rng(0), (200, 200), (6, 12), 0.3, gather=0.9)
    assert 0.28 < (labels > 0).mean() < 0.36
    assert touching(labels)


def touching(labels):
    return bool(((labels[1:] != labels[:-1]) & (labels[1:] > 0) & (labels[:-1] > 0)).any())


def test_scatter_above_hides_what_is_below():
    labels = scatter(np.random.default_rng(0), (100, 100), (10, 30), 1.5, above=True)
    last = labels == labels.max()
    assert connected(last).max() == 1


def test_a_nested_object_lies_within_its_own():
    labels = scatter(np.random.default_rng(0), (200, 200), (15, 30), 0.4, overlap=0)
    inner = nest(np.random.default_rng(1), labels, (0.4, 0.6))
    assert (inner > 0).any()
    np.testing.assert_array_equal(inner[inner > 0], labels[inner > 0])
    assert np.count_nonzero(inner) < 0.5 * np.count_nonzero(labels)


def test_a_mosaic_leaves_no_gap():
    for size, spacing in (((80, 90), None), ((10, 50, 60), (4, 1, 1))):
        labels = mosaic(np.random.default_rng(0), size, 10, spacing)
        assert labels.shape == size and labels.min() >= 1 and len(np.unique(labels)) > 10


def test_a_tube_is_all_pixels_near_its_path():
    path = np.array([[10.3, 10.7], [10.3, 11.7], [10.3, 12.7]])
    found = {(int(y), int(x)) for y, x in tube(path, 3.0)}
    wanted = {(y, x) for y in range(30) for x in range(30) if ((path - (y, x)) ** 2).sum(axis=1).min() <= 9}
    assert found == wanted


def test_a_walk_has_the_length_asked_for_and_no_corners():
    path = walk(np.random.default_rng(0), np.zeros(2), 100, 0.5, 0.3)
    strides = np.diff(path, axis=0)
    np.testing.assert_allclose(np.linalg.norm(strides, axis=1), 0.5)
    assert abs(len(strides) * 0.5 - 100) < 1
    assert (strides[1:] * strides[:-1]).sum(axis=1).min() > 0.5**2 * 0.95


def test_what_is_drawn_goes_below_or_above_or_not_at_all():
    labels = np.zeros((10, 10), np.int32)
    block = np.argwhere(np.ones((4, 4)))
    lower = block + np.array([2, 0])
    assert draw(labels, block, 1)
    assert not draw(labels, lower, 2)  # half of it is taken
    assert draw(labels, lower, 2, overlap=0.6) and labels[3, 0] == 1 and labels[4, 0] == 2
    assert draw(labels, lower, 3, overlap=1, above=True) and labels[3, 0] == 3
    assert not draw(labels, block - np.array([8, 0]), 4)  # nothing to see


def test_outlines_are_where_neighbours_differ():
    labels = np.zeros((5, 7), np.int32)
    labels[:, 3:] = 1
    assert outlines(labels)[:, 2:4].all() and outlines(labels).sum() == 10
    assert not outlines(labels, axes=(0,)).any()


def test_whole_splits_pieces_and_drops_crumbs():
    labels = np.zeros((20, 20), np.int32)
    labels[:5], labels[10:15], labels[18, 0] = 7, 7, 3
    found = whole(labels)
    assert found.max() == 2 and found[0, 0] != found[12, 0] and found[18, 0] == 0
