"""What microscope and camera do to a scene."""

from __future__ import annotations

import numpy as np
import pytest

from napari_interformer.optics import camera, clouds, enlarge, phase_contrast, stained, texture

SCENE = np.zeros((64, 64), np.float32)
SCENE[20:40, 20:40] = 1


def recorded(count=60, **options):
    return [camera(np.random.default_rng(seed), SCENE, **options) for seed in range(count)]


def test_cameras_have_8_12_and_16_bits():
    def bits(picture):
        return 8 if picture.dtype == np.uint8 else 12 if picture.max() < 2**12 else 16

    assert {bits(picture) for picture in recorded()} == {8, 12, 16}


def test_some_pictures_are_negatives():
    def negative(picture):
        return picture[20:40, 20:40].mean() < picture[:15].mean()

    assert not any(negative(picture) for picture in recorded(20, inverted=0))
    assert all(negative(picture) for picture in recorded(20, inverted=1))


def test_fewer_photons_make_more_noise():
    few, many = (
        camera(np.random.default_rng(0), SCENE, photons=(n, n), inverted=0).astype(float) for n in (20, 5000)
    )
    assert few[22:38, 22:38].std() / few.mean() > 3 * many[22:38, 22:38].std() / many.mean()


def test_colour_and_stacks_keep_their_shape():
    rng = np.random.default_rng(0)
    assert camera(rng, np.full((32, 48, 3), 0.5)).shape == (32, 48, 3)
    assert camera(rng, np.full((5, 32, 48), 0.5)).shape == (5, 32, 48)


@pytest.mark.parametrize("size", [(3, 50), (64, 64), (5, 20, 30)])
@pytest.mark.parametrize("scale", [0.5, 6, 200])
def test_clouds_have_zero_mean_unit_deviation_and_the_size_asked_for(size, scale):
    field = clouds(np.random.default_rng(1), size, scale)
    assert field.shape == size and field.dtype == np.float32
    assert abs(field.mean()) < 1e-3 and abs(field.std() - 1) < 1e-2


def test_larger_clouds_vary_more_slowly():
    small, large = (clouds(np.random.default_rng(0), (128, 128), scale) for scale in (2, 30))
    assert np.abs(np.diff(large, axis=0)).mean() < 0.3 * np.abs(np.diff(small, axis=0)).mean()


def test_enlarging_is_linear_interpolation():
    line = np.array([0.0, 1, 4])
    np.testing.assert_allclose(enlarge(line, 0, 9), np.interp(np.linspace(0, 2, 9), range(3), line))


def test_texture_is_a_factor_around_one():
    factor = texture(np.random.default_rng(0), (64, 64), 4, 0.2)
    assert factor.min() >= 0.1 and abs(factor.mean() - 1) < 0.05


def test_phase_contrast_is_dark_inside_with_a_bright_halo():
    picture = phase_contrast(SCENE, 5, 0.4)
    assert picture[30, 30] < 0.5 < picture[18, 30]


def test_more_stain_lets_less_light_through():
    light = stained([SCENE], [np.array([0.6, 0.7, 0.3])])
    assert light.shape == (64, 64, 3)
    np.testing.assert_allclose(light[0, 0], 1)
    np.testing.assert_allclose(light[30, 30], np.exp([-0.6, -0.7, -0.3]), rtol=1e-5)
