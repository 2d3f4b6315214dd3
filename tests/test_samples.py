"""Synthetic images and their ground truth."""

from __future__ import annotations

import numpy as np
import pytest

from napari_interformer.samples import (
    FAMILIES,
    VOLUMES,
    cells,
    cells_sample,
    nuclei_sample,
    nuclei_stack,
    synthetic,
    synthetic_stack,
)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_family_is_an_image_with_its_labels_and_the_same_for_the_same_seed(family, seed):
    image, labels = synthetic(np.random.default_rng(seed), (96, 128), family)
    again = synthetic(np.random.default_rng(seed), (96, 128), family)
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(labels, again[1])
    assert image.shape[:2] == labels.shape == (96, 128) and image.dtype in (np.uint8, np.uint16)
    assert labels.dtype == np.int32 and labels.max() >= 1
    assert image.std() > 1


def test_families_are_drawn_when_none_is_named():
    rng = np.random.default_rng(0)
    depths = {synthetic(rng, (48, 48))[0].ndim for _ in range(20)}
    assert depths == {2, 3}


def test_an_unknown_family_lists_the_known_ones():
    with pytest.raises(ValueError, match="nuclei"):
        synthetic(np.random.default_rng(0), family="galaxies")


def test_a_family_can_be_held_out(monkeypatch):
    drawn = []
    for name in FAMILIES:
        monkeypatch.setitem(FAMILIES, name, lambda rng, size, name=name: drawn.append(name))
    rng = np.random.default_rng(0)
    for _ in range(200):
        synthetic(rng, (48, 48), exclude=("membranes", "filaments"))
    assert set(drawn) == set(FAMILIES) - {"membranes", "filaments"}


def test_holding_out_needs_known_names_and_leaves_something():
    with pytest.raises(ValueError, match="membrans"):
        synthetic(np.random.default_rng(0), exclude=["membrans"])
    with pytest.raises(ValueError, match="at least one"):
        synthetic(np.random.default_rng(0), exclude=list(FAMILIES))


def test_a_seed_will_do_and_sizes_are_checked():
    same = [synthetic(rng, (32, 40), "nuclei")[0] for rng in (7, np.random.default_rng(7))]
    np.testing.assert_array_equal(*same)
    with pytest.raises(ValueError, match=r"size takes 2 lengths in pixels, from 1; got \(0, 8\)"):
        synthetic(7, (0, 8))
    with pytest.raises(ValueError, match="size takes 3 lengths"):
        synthetic_stack(7, (64, 64))
    with pytest.raises(ValueError, match="got 'membrane'"):
        synthetic(7, exclude="membrane")


def test_stacks_are_drawn_alike():
    stack, labels = synthetic_stack(np.random.default_rng(0), (6, 48, 40))
    assert stack.shape == labels.shape == (6, 48, 40)
    with pytest.raises(ValueError, match="organelles"):
        synthetic_stack(np.random.default_rng(0), family="galaxies")
    assert set(VOLUMES) == {"nuclei", "organelles"}


def test_fluorescent_objects_are_brighter_than_the_ground():
    for image, labels in (cells(), nuclei_stack()):
        assert image[labels > 0].mean() > 2 * image[labels == 0].mean()


def test_the_samples_of_the_menu_are_reproducible_and_have_their_size():
    image, labels = cells((256, 200), seed=3)
    assert image.shape == labels.shape == (256, 200) and image.dtype == np.uint16
    np.testing.assert_array_equal(image, cells((256, 200), seed=3)[0])
    assert not np.array_equal(image, cells((256, 200), seed=4)[0])
    assert cells(seed=1)[1].max() == 157  # the documentation and other tests click into this very image
    stack, objects = nuclei_stack((12, 64, 64))
    assert stack.shape == objects.shape == (12, 64, 64)
    spans = [np.ptp(np.flatnonzero((objects == n).any(axis=(1, 2)))) + 1 for n in range(1, objects.max() + 1)]
    assert max(spans) >= 5  # nuclei go through several planes


@pytest.mark.parametrize("sample", [cells_sample, nuclei_sample])
def test_samples_come_with_hidden_ground_truth(sample):
    from napari.layers import Image, Labels

    (image, place, kind), (truth, extra, other) = sample()
    assert (kind, other) == ("image", "labels")
    assert image.shape == truth.shape and truth.max() > 10
    assert place.get("scale") == extra.get("scale") and extra["visible"] is False
    Image(image, **place)
    Labels(truth, **extra)
