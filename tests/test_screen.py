"""What is on the screen, told from napari's sliders and camera, without a window."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_interformer.geometry import Box
from napari_interformer.layers import Source
from napari_interformer.prompts import Click
from napari_interformer.screen import Screen


@pytest.fixture
def stack():
    """Return a viewer of a stack of 5 planes that lie 3 apart, its screen, and the source."""
    viewer = ViewerModel()
    layer = viewer.add_image(np.zeros((5, 40, 60), np.uint8), scale=(3, 1, 2), translate=(1, 0, 10))
    return viewer, Screen(viewer), Source((layer,))


def test_the_pixel_in_the_middle_of_the_screen_and_its_plane_are_looked_at(stack):
    viewer, screen, source = stack
    viewer.dims.set_point(0, 1 + 3 * 2)
    screen.camera.center = (0, 7, 10 + 2 * 21)
    assert screen.looked_at(source) == Click((2,), 7, 21)
    assert screen.plane(source, (5,)) == (2,)
    assert screen.plane(source, (2,)) is None and screen.plane(source, (5, 5)) is None
    screen.camera.zoom = 4
    assert screen.pixel == 0.25


def test_a_plane_is_gone_to(stack):
    viewer, screen, source = stack
    screen.go_to(source, (4,))
    assert viewer.dims.point[0] == 13 and screen.plane(source, (5,)) == (4,)


def test_planes_that_are_not_of_y_and_x_are_told_from_those_that_are(stack):
    viewer, screen, source = stack
    assert screen.flat and screen.upright(source)
    viewer.dims.order = (1, 0, 2)
    assert screen.flat and not screen.upright(source)
    viewer.dims.order = (0, 1, 2)
    viewer.dims.ndisplay = 3
    assert not screen.flat and not screen.upright(source)


def test_y_and_x_may_come_before_the_channels():
    viewer = ViewerModel()
    layer = viewer.add_image(np.zeros((40, 60, 3), np.uint8), rgb=False)
    screen, source = Screen(viewer), Source((layer,), channel_axis=2)
    assert not screen.upright(source)
    viewer.dims.order = (2, 0, 1)
    assert screen.upright(source)
    labels = viewer.add_labels(np.zeros((40, 60, 1), np.int32))
    labels._update_draw(1, np.array([[10, 20], [19, 39]]), (100, 100))
    assert screen.seen(source, labels) == Box(20, 10, 40, 20)


@pytest.mark.parametrize("multiscale", [False, True])
def test_what_is_seen_is_a_box_of_the_finest_level(multiscale):
    viewer, labels = ViewerModel(), np.zeros((3, 400, 600), np.int32)
    levels = [labels, labels[:, ::2, ::2]] if multiscale else labels
    layer = viewer.add_labels(levels, multiscale=multiscale, scale=(1, 2, 3))
    layer._update_draw(1, np.array([[200, 300], [399, 599]]), (100, 100))  # as napari's canvas does
    source = Source((viewer.add_image(labels),))
    seen = Screen(viewer).seen(source, layer)
    assert seen.holds(Box(100, 100, 200, 200))
    assert multiscale or seen == Box(100, 100, 201, 201)
