"""Where clicks land: planes, channels, scaled and moved layers."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

from napari_interformer.labels import LABELS
from napari_interformer.prompts import Click
from panel import THEIRS, area
from window import squares

pytest_plugins = ("panel",)
pytestmark = THEIRS


@pytest.mark.parametrize(
    "place",
    [
        {"scale": (0.5, 0.25), "translate": (30, -7)},
        {"scale": (2, 2), "rotate": 30, "translate": (5, 5)},
        {"affine": [[0, 2, 3], [-1, 0, 4], [0, 0, 1]]},
    ],
    ids=["scale, translate", "rotate", "affine"],
)
def test_clicks_land_where_the_layer_lies(window, place):
    image, centres = squares()
    layer = window.open(image, **place)
    window.click_and_wait(layer.data_to_world(centres[5]))
    y, x = centres[5]
    assert window.labels[y - 10 : y + 10, x - 10 : x + 10].all() and area(window.labels) == 400
    mine = window.viewer.layers[LABELS]
    for corner in ((0, 0), (95, 0), (95, 159)):
        np.testing.assert_allclose(mine.data_to_world(corner), layer.data_to_world(corner))


def test_clicks_land_on_the_plane_that_is_shown(window):
    image, centres = squares()
    stack = np.stack([image * (z == 2) for z in range(4)])
    layer = window.open(stack, scale=(3, 1, 1), translate=(0.7, 0, 0))
    window.viewer.dims.set_point(0, 0.7 + 3 * 2.3)  # between planes: plane 2 is shown
    window.rest()
    window.click_and_wait(centres[0])
    assert window.panel.annotator.session.clicks[0].plane == (2,)
    assert window.labels[2].sum() == 400 and window.labels.sum() == 400
    assert layer.data[2][centres[0]] == 200


def test_the_slider_leads_to_other_planes_and_the_object_follows_through_the_stack(window):
    image, centres = squares()
    window.open(np.stack([image] * 5))
    window.viewer.dims.set_current_step(0, 2)
    window.rest()
    window.click_and_wait(centres[0])
    assert [int(plane.sum()) for plane in window.labels] == [0, 0, 400, 0, 0]
    window.key_and_wait("Shift+S")
    assert [int(plane.sum()) for plane in window.labels] == [400] * 5
    window.key_and_wait("Ctrl+Z")
    assert [int(plane.sum()) for plane in window.labels] == [0, 0, 400, 0, 0]
    assert window.form.object.text() == "Object 1: 1 click"


def test_time_series_of_stacks(window):
    image, centres = squares()
    window.open(da.from_array(np.stack([np.stack([image] * 3)] * 2), chunks=(1, 1, -1, -1)))
    window.viewer.dims.set_current_step(0, 1)
    window.viewer.dims.set_current_step(1, 2)
    window.rest()
    window.click_and_wait(centres[1])
    assert window.labels.shape == (2, 3, 96, 160) and area(window.labels[1, 2]) == 400


def test_channels_between_z_and_y_share_their_objects(window):
    image, centres = squares()
    hyperstack = np.stack([np.stack([image, image[::-1]])] * 3)  # (Z, C, Y, X)
    window.viewer.add_image(hyperstack)
    window.form.channel_axis.setCurrentIndex(window.form.channel_axis.findData(1))
    window.form.channels.setText("0")
    window.encode()
    window.viewer.dims.set_current_step(0, 1)
    window.viewer.dims.set_current_step(1, 1)
    window.rest()
    window.click_and_wait(centres[0])
    assert window.labels.shape == (3, 1, 96, 160) and area(window.labels[1]) == 400
    assert len(window.points._view_data) == 1  # seen on channel 1, and
    window.viewer.dims.set_current_step(1, 0)
    window.rest()
    assert len(window.points._view_data) == 1  # on channel 0


def test_three_layers_are_taken_as_colours(window):
    image, centres = squares()
    for name in ("a", "b"):
        window.viewer.add_image(image if name == "a" else image[:, ::-1], name=name)
    window.form.image.choose(window.viewer.layers["a"])
    window.form.show_rows()
    window.form.green.choose(window.viewer.layers["b"])
    window.viewer.layers["b"].contrast_limits = (10, 150)
    window.encode()
    assert not window.told
    assert window.panel.features.origin.contrast == ((0.0, 200.0), (10.0, 150.0))
    window.click_and_wait(centres[0])
    assert area(window.labels) >= 400


def test_labels_that_are_opened_lie_where_the_image_does(window):
    image, centres = squares()
    place = {"scale": (0.5, 0.5), "translate": (10, 20)}
    layer = window.open(image, **place)
    away, opened = (window.viewer.add_labels(np.zeros(image.shape, int), name=name) for name in "ab")
    away.translate = (0, 3)
    for chosen in (away, opened):
        window.form.labels.choose(chosen)
        window.form.labels.activated.emit(window.form.labels.currentIndex())
    assert "a lies elsewhere" in window.told[0] and "b had no position of its own" in window.told[1]
    window.viewer.reset_view()
    world = layer.data_to_world(centres[0])
    window.click_and_wait(world)
    assert area(opened.data) == 400 and opened.get_value(world, world=True) == 1
    layer.translate = (10, 30)
    assert opened.translate.tolist() == [10, 30] and away.translate.tolist() == [0, 3]


def test_channels_are_those_of_the_image_for_which_they_were_chosen(window):
    form, stack = window.form, np.zeros((3, 5, 40, 40), np.uint8)
    first, other, second = (window.viewer.add_image(stack, name=name, rgb=False) for name in "abc")
    window.choose(first)
    form.channel_axis.setCurrentIndex(1)
    form.channels.setText("0,2")
    window.choose(other)
    form.green.choose(second)
    window.choose(second)
    source = form.source()
    assert (source.layers, source.axis) == ((second,), None) and not form.channels.text()
    window.choose(first)
    assert (form.source().axis, form.source().channels) == (0, (0, 2))
    window.choose(other)
    assert form.source().layers == (other, second)
    window.viewer.layers.remove(other)
    window.rest()
    assert form.source().layers == (second,)


def test_channels_may_come_last(window):
    image, centres = squares()
    window.viewer.add_image(np.stack([image, image // 2], -1), rgb=False)
    window.viewer.dims.order = (2, 0, 1)
    window.form.channel_axis.setCurrentIndex(window.form.channel_axis.findData(2))
    window.encode()
    y, x = centres[0]
    window.key("B")
    window.drag((y - 9, x - 9), (y + 9, x + 9))
    window.idle()
    window.key_and_wait("C")
    window.key_and_wait("G")
    assert (window.labels > 0).sum() == 400 * len(centres)
    before = window.labels.copy()
    window.viewer.layers[LABELS].paint((0, 0, 0), 99)
    window.idle()
    assert (window.labels == 99).any()
    window.key_and_wait("Ctrl+Z")
    np.testing.assert_array_equal(window.labels, before)
    assert [told for told in window.told if "similar" not in told] == []


def test_channels_that_were_planes_for_a_while_keep_their_labels(window):
    image, centres = squares()
    layer = window.viewer.add_image(np.stack([image, image // 2, image // 3]), rgb=False)
    window.viewer.dims.set_current_step(0, 0)
    window.encode()
    window.click_and_wait((0, *centres[0]))
    window.key_and_wait("C")
    first = window.panel.labels.layer
    for axis in (0, None):
        window.form.channel_axis.setCurrentIndex(window.form.channel_axis.findData(axis))
        window.encode()
        assert (window.panel.labels.layer is first) == (axis is None)
    assert window.panel.annotator.session.label == 2 and layer in window.viewer.layers


def test_clicks_and_labels_go_where_the_image_goes(field):
    window, centres = field
    image = window.viewer.layers[0]
    window.click_and_wait(centres[0])
    image.scale, image.translate = (0.5, 0.5), (7, 3)
    for layer in (window.points, window.viewer.layers[LABELS]):
        np.testing.assert_array_equal(layer.scale, image.scale)
        np.testing.assert_array_equal(layer.translate, image.translate)
    window.viewer.reset_view()
    window.rest()
    window.click_and_wait(image.data_to_world(centres[1]))
    assert window.panel.annotator.session.clicks == (Click.at(centres[0]), Click.at(centres[1]))
    assert area(window.labels) == 800
