"""Small objects magnified, large ones seen from farther away."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from conftest import BlobModel
from napari_interformer.encoding import encode
from napari_interformer.features import Features
from napari_interformer.geometry import Box, iou
from napari_interformer.image import Planes
from napari_interformer.scales import magnified, maps_at, size_at, to_image, to_working, working
from napari_interformer.session import Session

LEAST, MOST = 24.0, 48.0


@pytest.fixture
def model():
    """Return a model that can answer objects of 24 to 48 pixels only."""
    found = BlobModel(window=128)
    found.config = replace(found.config, click_window=64, diameters=(LEAST, MOST))
    return found


def disk(diameter, shape=(1600, 1600), centre=(800, 800)):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= (diameter / 2) ** 2


def session_on(mask, model, **options):
    image = np.where(mask, 200, 0).astype(np.uint8)
    return Session(encode(image, model, contrast=(0, 255), device="cpu"), model, **options)


@pytest.mark.parametrize("diameter", [13, 30, 60, 150, 400, 1200])
def test_objects_of_any_size_are_found_at_the_magnification_that_suits_them(model, diameter):
    truth = disk(diameter)
    s = session_on(truth, model)
    mask = s.click((800, 800))
    assert iou(mask, truth) > 0.75  # the model's cells are 4 working pixels
    view = s.latest().view
    found = Box.around(view.mask)
    assert found.width <= MOST
    assert max(view.box.height, view.box.width) <= model.config.window
    assert (view.level > 0) == (diameter < LEAST)


def test_a_known_size_is_taken_at_once(model):
    truth = disk(360)
    found, told = session_on(truth, model), session_on(truth, model, object_size=360)
    for s in (found, told):
        model.decoded = 0
        s.click((800, 800))
        s.decodings = model.decoded
    assert told.decodings == 1 < found.decodings
    np.testing.assert_array_equal(found.mask, told.mask)


def test_the_image_is_seen_with_the_contrast_of_the_features(model):
    image = np.where(disk(60), 200, 0).astype(np.uint8)
    features = encode(image, model, contrast=(50, 300), device="cpu")
    s = Session(features, model, image=image)
    assert s.image.contrast == features.origin.contrast == ((50, 300),)


def test_a_new_size_is_for_the_next_object_and_is_saved_with_it(model, tmp_path):
    truth = disk(300, centre=(400, 400)) | disk(14, centre=(1200, 1200))
    s = session_on(truth, model, object_size=300)
    s.click((400, 400))
    s.object_size = 14
    s.click((400, 420))
    assert s.latest().view.level < 0
    s.commit()
    s.click((1200, 1200))
    assert s.latest().view.level == 1
    s.commit()
    again = Session(s.features, model)
    again.load_prompts(s.save_prompts(tmp_path / "clicks.json"))
    np.testing.assert_array_equal(again.labels, s.labels)
    assert again.object_size is None


def test_an_object_that_grows_is_seen_from_farther_away_and_every_click_keeps_its_say(model):
    truth = np.zeros((1600, 1600), bool)
    for left in range(200, 1300, 100):
        truth[800:832, left : left + 32] = True
    s = session_on(truth, model)
    levels = []
    for left in range(200, 1300, 100):
        s.click((810, left + 10))
        levels.append(s.latest().view.level)
        mask = s.mask
        assert all(mask[c.y, c.x] for c in s.clicks)
    assert levels == sorted(levels, reverse=True) and levels[-1] < 0
    s.click((900, 300), positive=False)
    assert not s.mask[900, 300]
    while s.undo():
        pass
    assert not s.mask.any()


def test_a_far_click_keeps_a_small_object_from_being_magnified_and_hurts_nothing(model):
    truth = disk(16, (640, 640), (320, 320))
    s = session_on(truth, model)
    s.click((320, 320))
    assert s.latest().view.level == 1
    before = s.mask
    s.click((320, 410), positive=False)
    assert s.latest().view.level < 1
    assert iou(s.mask, before) > 0.5 and not s.mask[320, 410]
    s.click((100, 20), positive=False)
    assert s.mask[320, 320] and not s.mask[100, 20]


def test_without_the_image_everything_is_seen_as_it_is(model, tmp_path):
    truth = disk(150, (320, 320), (160, 160))
    image = np.where(truth, 200, 0).astype(np.uint8)
    encode(image, model, contrast=(0, 255), store=tmp_path / "f.zarr", device="cpu")
    opened = Features.open(tmp_path / "f.zarr")
    alone = Session(opened, model)
    alone.click((160, 160))
    assert alone.latest().view.level == 0
    whole = Session(opened, model, image=Planes.of(image, contrast=(0, 255)))
    whole.click((160, 160))
    assert whole.latest().view.level < 0
    with pytest.raises(ValueError, match="image must be the image that was encoded"):
        Session(opened, model, image=Planes.of(image.T[:300]))
    with pytest.raises(ValueError, match="object_size takes a number of pixels"):
        Session(opened, model, object_size=0)
    with pytest.raises(ValueError, match="object_size needs the image"):
        Session(opened, model, object_size=150)


def test_an_object_is_gone_on_with_at_its_own_magnification(model):
    truth = disk(400)
    s = session_on(truth, model)
    s.labels[truth] = 1
    s.label = 2
    s.edit(1)
    assert s.latest().view.level < 0
    assert iou(s.mask, truth) == 1
    s.click((800, 790))
    assert iou(s.mask, truth) > 0.75


# ---------------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize("shape", [(50, 70, 3), (64, 64, 3), (33, 35, 3)])
def test_a_coarse_level_is_the_mean_of_its_pixels(rng, shape):
    pixels = rng.integers(0, 255, shape).astype(np.uint8)
    planes = Planes.of(pixels, rgb=True, contrast=(0, 255))
    height, width = size_at(planes.size, -3)
    got = magnified(planes, (), -3, Box(0, 0, width, height))
    for row in range(height):
        for column in range(width):
            part = pixels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].astype(float)
            np.testing.assert_allclose(got[row, column], part.mean((0, 1)), rtol=1e-4)


def test_a_fine_level_is_interpolated_the_same_in_every_box(rng):
    planes = Planes.of(rng.integers(0, 255, (40, 48)).astype(np.uint8), contrast=(0, 255))
    whole = magnified(planes, (), 1, Box(0, 0, 96, 80))
    assert whole.shape == (80, 96, 3)
    np.testing.assert_array_equal(magnified(planes, (), 1, Box(32, 16, 64, 80)), whole[16:80, 32:64])
    np.testing.assert_allclose(whole.mean(), planes.read().mean(), rtol=0.02)


@pytest.mark.parametrize("level", [-2, 1])
def test_a_box_of_a_level_has_the_same_features_as_in_the_whole(model, rng, level):
    planes = Planes.of(rng.integers(0, 255, (300, 420)).astype(np.uint8), contrast=(0, 255))
    height, width = (-(-n // 32) * 32 for n in size_at(planes.size, level))
    whole = maps_at(planes, model, (), level, Box(0, 0, width, height))
    part = maps_at(planes, model, (), level, Box(32, 32, 64, 96))
    for stride, everything, some in zip(model.strides, whole, part, strict=True):
        assert everything.shape[1:] == (height // stride, width // stride)
        np.testing.assert_array_equal(
            some, everything[:, 32 // stride : 96 // stride, 32 // stride : 64 // stride]
        )


@given(arrays(bool, st.tuples(st.integers(1, 20), st.integers(1, 20))), st.integers(0, 9), st.integers(0, 9))
def test_a_mask_survives_magnification(mask, top, left):
    box = Box(left, top, left + mask.shape[1], top + mask.shape[0])
    there, fine = to_working(mask, box, 1)
    back, logits = to_image(np.where(fine, 1, -1).astype(np.float32), there, 1)
    assert back == box
    np.testing.assert_array_equal(logits > 0, mask)
    coarse_box, coarse = to_working(mask, box, -2)
    assert coarse_box == Box(left // 4, top // 4, -(-box.right // 4), -(-box.bottom // 4))
    assert coarse.shape == (coarse_box.height, coarse_box.width)
    if coarse.all():
        assert mask.sum() >= 8 * coarse.size


def test_pixels_know_their_place_at_every_level():
    assert [working(13, level) for level in (-2, -1, 0, 1)] == [3, 6, 13, 26]
    assert size_at((13, 100), -2) == (4, 25) and size_at((13, 100), 1) == (26, 200)
