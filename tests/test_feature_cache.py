"""Features that are there already are found again, and no others."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from napari_interformer.feature_cache import FeatureCache, features_for
from napari_interformer.image import Planes


@pytest.fixture(scope="module")
def planes():
    return Planes.of(np.random.default_rng(0).integers(0, 255, (2, 40, 50), np.uint8))


def test_features_are_kept_for_their_layers_until_one_of_them_is_dropped(planes, small_model):
    cache = FeatureCache()
    _, one = features_for(planes, small_model, None, [])
    _, other = features_for(planes, small_model, None, [])
    cache.keep(("image",), one)
    cache.keep(("red", "green"), other)
    cache.keep(("image",), one)
    assert cache.features == [other, one]
    cache.drop("green")
    assert cache.features == [one]
    cache.drop("another")
    assert cache.features == [one]


def test_the_same_image_and_model_get_the_same_features(planes, small_model, monkeypatch):
    _, made = features_for(planes, small_model, None, [None])
    with monkeypatch.context() as patch:  # room for large ones is a folder on disk
        patch.setattr(
            "napari_interformer.encoding.room_for", lambda *_, **__: pytest.fail("no room is needed")
        )
        assert features_for(planes, small_model, None, [made])[1] is made
    assert features_for(planes.with_contrast((0.0, 9.0)), small_model, None, [made])[1] is not made
    other = Planes.of(np.zeros((2, 40, 50), np.uint8))
    assert features_for(other, small_model, None, [made])[1] is not made


def test_a_store_is_used_again_for_its_image_alone_and_with_its_contrast(planes, small_model, tmp_path):
    path = str(tmp_path / "features.zarr")
    _, made = features_for(planes, small_model, path, [])
    assert features_for(planes, small_model, None, [made])[1] is not made
    assert features_for(planes, small_model, path, [made])[1] is made
    darker = planes.with_contrast((0.0, 1000.0))
    found, again = features_for(darker, small_model, path, [])
    assert again.origin == made.origin and again.source is found
    shutil.rmtree(path)
    _, anew = features_for(planes, small_model, path, [made, again])
    assert anew is not made and anew is not again and not anew.ready_planes().any()
    with pytest.raises(ValueError, match=r"features\.zarr holds features of another image"):
        features_for(Planes.of(np.zeros((2, 40, 50), np.uint8)), small_model, path, [made])
