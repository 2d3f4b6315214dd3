"""Every kind of synthetic microscopy keeps what is promised of it."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, find_objects, gaussian_gradient_magnitude
from skimage.measure import label as connected

from napari_interformer.families import FAMILIES, VOLUMES, extent
from napari_interformer.shapes import outlines

SEEDS = range(8)


@cache
def images(family):
    return [FAMILIES[family](np.random.default_rng(seed), (256, 256)) for seed in SEEDS]


@cache
def stacks(family):
    return [VOLUMES[family](np.random.default_rng(seed), (12, 64, 64)) for seed in range(5)]


def spans(labels):
    """Return how many pixels each object is across, in its longest direction along the axes."""
    return [max(side.stop - side.start for side in box) for box in find_objects(labels)]


def test_objects_are_8_to_500_pixels_across_or_what_the_image_holds():
    rng = np.random.default_rng(0)
    drawn = np.array([extent(rng, (1000, 1000)) for _ in range(2000)])
    assert 8 <= drawn.min() < 9 and 450 < drawn.max() <= 500
    assert abs(np.median(drawn) - np.sqrt(8 * 500)) < 8  # as many doublings below as above
    assert max(extent(rng, (24, 256, 300)) for _ in range(500)) <= 0.8 * 256


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_small_and_large_objects_in_every_image_some(family):
    found = [spans(labels) for _, labels in images(family)]
    assert all(found)
    medians = [np.median(each) for each in found]
    largest = max(max(each) for each in found)
    assert min(medians) <= 40 and (30 <= largest < 60 if family == "vesicles" else largest >= 90)


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_count_from_one_and_an_object_is_one_piece(family):
    for _, labels in images(family):
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(np.unique(labels[labels > 0]), np.arange(1, labels.max() + 1))
        if family != "filaments":  # one that is crossed goes on behind
            assert connected(labels, connectivity=1).max() == labels.max()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_picture_changes_at_the_outlines(family):
    """The truth is where a careful human sees the edge: the picture is steeper there than elsewhere."""
    ratios = []
    for image, labels in images(family):
        grey = image.reshape(256, 256, -1).mean(axis=2)
        steep, edge = gaussian_gradient_magnitude(grey, 1.0), outlines(labels)
        ratios.append(steep[edge].mean() / steep[~binary_dilation(edge, iterations=3)].mean())
    assert np.median(ratios) > 1.15


@pytest.mark.parametrize("family", ["nuclei", "cells", "tissue", "bacteria", "leaves"])
def test_some_objects_touch(family):
    assert any(
        ((labels[1:] != labels[:-1]) & (labels[1:] > 0) & (labels[:-1] > 0)).any()
        for _, labels in images(family)
    )


@pytest.mark.parametrize("family", ["organelles", "cells"])
def test_some_objects_lie_within_others(family):
    drawn = (FAMILIES[family](np.random.default_rng(seed), (256, 256)) for seed in range(40))
    assert any(surrounded(labels) for _, labels in drawn)


def surrounded(labels):
    for label, box in enumerate(find_objects(labels), 1):
        around = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in box)
        mask = labels[around] == label
        beside = np.unique(labels[around][binary_dilation(mask) & ~mask])
        inside = all(side.start > 0 and side.stop < n for side, n in zip(box, labels.shape, strict=True))
        if inside and len(beside) == 1 and beside[0] > 0:
            return True
    return False


@pytest.mark.parametrize("family", VOLUMES)
def test_an_object_of_a_stack_goes_on_from_plane_to_plane(family):
    thick = 0
    for image, labels in stacks(family):
        assert image.shape == labels.shape == (12, 64, 64) and image.dtype in (np.uint8, np.uint16)
        assert labels.dtype == np.int32 and labels.max() >= 1
        for label in range(1, labels.max() + 1):
            mask = labels == label
            planes = np.flatnonzero(mask.any(axis=(1, 2)))
            assert np.array_equal(planes, np.arange(planes[0], planes[-1] + 1))
            assert all((mask[z] & mask[z + 1]).any() for z in planes[:-1])
            thick += len(planes) >= 5
    assert thick >= 5


@pytest.mark.parametrize("family", VOLUMES)
def test_stacks_are_the_same_for_the_same_seed(family):
    image, labels = VOLUMES[family](np.random.default_rng(0), (12, 64, 64))
    np.testing.assert_array_equal(image, stacks(family)[0][0])
    np.testing.assert_array_equal(labels, stacks(family)[0][1])
