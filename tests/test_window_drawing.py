"""Boxes and lines in the window."""

from __future__ import annotations

import numpy as np
import pytest
from napari.utils.colormaps.standardize_color import transform_color

from napari_interformer.drawings import SHAPES
from napari_interformer.layers import GREEN, RED
from napari_interformer.prompts import Scribble
from panel import THEIRS, Window, area, box_around, drawn
from window import PLENTY, squares

pytest_plugins = ("panel",)
pytestmark = THEIRS


def test_b_and_a_drag_box_an_object_and_clicks_go_on_from_there(field):
    window, centres = field
    assert SHAPES not in window.viewer.layers
    window.key_and_wait("B")
    assert window.viewer.layers.selection.active.name == SHAPES
    window.drag(*box_around(centres[0]))
    window.wait(lambda: window.viewer.layers.selection.active is window.points)
    window.idle()
    session = window.panel.annotator.session
    assert session.prompts == (drawn(centres[0]),) and area(window.labels) == 400
    assert window.form.object.text() == "Object 1: a box, 0 clicks" and window.points.mode == "add"
    window.click_and_wait(centres[1])
    assert area(window.labels) == 800 and len(session.prompts) == 2
    window.key_and_wait("Ctrl+Z")
    window.key_and_wait("Ctrl+Z")
    assert not window.labels.any() and not window.viewer.layers[SHAPES].data
    window.key_and_wait("Ctrl+Shift+Z")
    assert area(window.labels) == 400 and len(window.viewer.layers[SHAPES].data) == 1
    window.key_and_wait("C")
    assert area(window.labels) == 400 and not window.viewer.layers[SHAPES].data
    window.key("B")
    window.form.box.click()  # no box after all
    window.click_and_wait(centres[1])
    assert area(window.labels, 2) == 400 and not window.told


def test_l_and_a_drag_draw_a_line_through_what_belongs_and_a_red_one_through_what_does_not(field):
    window, centres = field
    window.click_and_wait(centres[0])

    def draw(start, end, button=None):
        before = len(window.panel.annotator.session.scribbles)
        button.click() if button else window.key("L")
        assert window.viewer.layers.selection.active.name == SHAPES
        window.drag(start, end)
        window.wait(lambda: window.viewer.layers.selection.active is window.points)
        window.idle()
        assert len(window.panel.annotator.session.scribbles) == before + 1

    draw(centres[0], centres[1])
    session = window.panel.annotator.session
    assert area(window.labels) >= 800 and window.form.object.text() == "Object 1: 1 click, a line"
    window.click_and_wait(centres[2])  # the order of all stays
    window.key_and_wait("T")
    draw((centres[1][0] - 4, centres[1][1]), (centres[1][0] + 4, centres[1][1]), window.form.line)
    click, green, other, red = session.prompts
    assert (click.position, other.position) == (centres[0], centres[2])
    assert green.positive and green.path[0] == centres[0] and not red.positive
    assert not window.labels[centres[1]] and window.labels[centres[0]] == 1
    shapes = window.viewer.layers[SHAPES]
    assert list(shapes.shape_type) == ["path", "path"]
    np.testing.assert_allclose(
        shapes.edge_color, [transform_color(GREEN)[0], transform_color(RED)[0]], atol=0.01
    )
    window.key_and_wait("Ctrl+Z")
    assert session.prompts == (click, green, other) and window.labels[centres[1]] == 1
    window.key_and_wait("Ctrl+Shift+Z")
    assert session.prompts == (click, green, other, red)
    shapes.data = shapes.data  # read anew: the same
    window.idle()
    assert session.prompts == (click, green, other, red)
    shapes.selected_data = {0}
    shapes.remove_selected()
    window.idle()
    assert session.prompts == (click, other, red)
    window.panel.activate()
    window.key_and_wait("C")
    assert not shapes.data and not window.told


def test_a_line_is_drawn_by_clicks_on_its_ends_and_has_the_sign_that_is_shown(field):
    window, ((y, x), (_, other), *_) = field
    session = window.panel.annotator.session

    def clicks_again():
        window.wait(lambda: window.viewer.layers.selection.active is window.points)
        window.idle()

    def lines():
        return [(line.path[0], line.positive) for line in session.scribbles]

    window.key("L")
    window.click((y, x))
    window.rest()
    window.click((y, x + 4))
    clicks_again()
    assert session.scribbles == (Scribble((), ((y, x), (y, x + 4))),) and area(window.labels) == 400
    window.key("L")
    window.key("T")  # napari's own, but while the line is drawn
    assert "Negative" in window.form.sign.text()
    window.drag((y + 3, x - 8), (y + 3, x + 8))
    clicks_again()
    window.key("L")
    window.form.sign.click()
    window.drag((y, other - 8), (y, other + 8))
    clicks_again()
    window.key("L")
    window.drag((y + 6, other - 8), (y + 6, other + 8), "Right")
    clicks_again()
    drawn = [((y, x), True), ((y + 3, x - 8), False), ((y, other - 8), True), ((y + 6, other - 8), False)]
    assert lines() == drawn and "Positive" in window.form.sign.text()
    shapes = window.viewer.layers[SHAPES]
    window.viewer.layers.selection.active, shapes.mode, shapes.selected_data = shapes, "select", {1}
    shapes.current_edge_color = GREEN
    window.idle()
    assert lines()[1] == (drawn[1][0], True)
    window.key("T")
    assert shapes.mode == "add_path" and "Positive" in window.form.sign.text()
    window.key_and_wait("Ctrl+Z")
    assert lines() == drawn and not window.told


def test_a_second_box_takes_the_place_of_the_first_and_undo_brings_that_back(field):
    window, centres = field

    def shown():
        (box,) = window.viewer.layers[SHAPES].data
        return tuple(box.mean(0).round())

    for centre in centres[:2]:
        window.key("B")
        window.drag(*box_around(centre))
        window.wait(lambda: window.viewer.layers.selection.active is window.points)
        window.idle()
    window.rest()
    assert window.panel.annotator.session.boxes == (drawn(centres[1]),)
    np.testing.assert_allclose(shown(), centres[1], atol=1)
    window.key_and_wait("Ctrl+Z")
    assert window.panel.annotator.session.boxes == (drawn(centres[0]),)
    np.testing.assert_allclose(shown(), centres[0], atol=1)


@pytest.mark.parametrize("tool", ["B", "L"])
def test_esc_ends_a_drawing_of_which_nothing_stays(field, tool):
    window, centres = field
    window.key(tool)
    shapes = window.viewer.layers[SHAPES]
    start, end = map(window.pixel, box_around(centres[0]))
    window.QTest.mouseMove(window.canvas, start)
    window.app.processEvents()
    window.QTest.mousePress(window.canvas, window.Qt.MouseButton.LeftButton, pos=start)
    for share in (0.3, 0.6, 1.0):
        window.QTest.mouseMove(window.canvas, start + (end - start) * share)
        window.app.processEvents()
    assert shapes.nshapes == 1
    window.key("Escape")
    window.wait(lambda: window.viewer.layers.selection.active is window.points)
    window.QTest.mouseMove(window.canvas, start)
    window.app.processEvents()
    window.QTest.mouseRelease(window.canvas, window.Qt.MouseButton.LeftButton, pos=start)
    window.idle()
    assert not shapes.nshapes and not window.panel.annotator.session.given
    window.key("L")
    window.drag((centres[1][0], centres[1][1] - 8), (centres[1][0], centres[1][1] + 8))
    window.wait(lambda: window.viewer.layers.selection.active is window.points)
    window.idle()
    assert area(window.labels) == 400 and shapes.nshapes == 1 and not window.told


def test_clicks_are_had_again_by_the_key_of_the_tool_and_by_esc(field):
    window, _ = field
    for tool, again in (("B", "B"), ("B", "Escape"), ("L", "L"), ("L", "Escape")):
        window.key(tool)
        assert window.viewer.layers.selection.active is window.viewer.layers[SHAPES]
        window.key(again)
        assert window.viewer.layers.selection.active is window.points and window.points.mode == "add"
    window.key("B")
    window.key("L")
    shapes = window.viewer.layers[SHAPES]
    assert window.viewer.layers.selection.active is shapes and shapes.mode == "add_path"
    assert not window.told


def test_esc_thinks_better_of_choosing_an_object(field):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    for key in ("E", "X"):
        window.key(key)
        assert window.panel.canvas.picking
        window.key("Escape")
        assert not window.panel.canvas.picking
    window.click_and_wait(centres[1])
    assert area(window.labels) == 400 and area(window.labels, 2) == 400 and not window.told


@pytest.mark.parametrize("tool", ["B", "L"])
def test_after_a_look_in_three_dimensions_clicks_are_had_in_place_of_a_tool(field, tool):
    window, centres = field
    window.key(tool)
    for ndisplay in (3, 2):
        window.viewer.dims.ndisplay = ndisplay
        window.rest()
    window.click_and_wait(centres[0])
    assert area(window.labels) == 400 and not window.told


def test_a_click_on_the_hidden_click_layer_shows_it_and_counts(field):
    window, centres = field
    window.points.visible = False
    window.click_and_wait(centres[0])
    assert window.points.visible and area(window.labels) == 400
    window.click_and_wait(centres[1])
    assert area(window.labels) == 800
    window.points.visible = False
    window.key("L")
    window.drag((centres[2][0], centres[2][1] - 8), (centres[2][0], centres[2][1] + 8))
    window.wait(lambda: window.viewer.layers.selection.active is window.points)
    window.idle()
    assert window.points.visible and window.points.mode == "add" and area(window.labels) == 1200


def test_a_box_is_moved_and_deleted_with_napari_s_own_tools(field):
    window, centres = field
    window.form.box.click()
    window.drag(*box_around(centres[0], 6))
    window.wait(lambda: window.viewer.layers.selection.active is window.points)
    window.idle()
    boxes = window.viewer.layers[SHAPES]
    beyond = 14**2  # a tenth of the box, where the model is sure
    assert area(window.labels) == beyond
    window.viewer.layers.selection.active = boxes
    boxes.mode = "select"
    window.rest()
    (y, x), (other_y, other_x) = centres[:2]
    window.drag((y + 3, x + 3), (other_y + 3, other_x + 3))
    window.idle()
    assert window.panel.annotator.session.prompts == (drawn(centres[1], 6),)
    assert area(window.labels) == beyond and window.labels[centres[1]] == 1 and window.labels[centres[0]] == 0
    window.key_and_wait("Ctrl+Z")
    assert window.labels[centres[0]] == 1 and window.labels[centres[1]] == 0
    boxes.selected_data = {0}
    boxes.remove_selected()
    window.idle()
    assert not window.labels.any() and window.panel.annotator.session.prompts == ()
    window.key_and_wait("Ctrl+Z")
    assert area(window.labels) == beyond
    window.viewer.layers.remove(boxes)
    window.rest()
    window.idle()
    assert not window.labels.any() and not window.told
    window.panel.activate()
    window.key_and_wait("Ctrl+Z")
    assert area(window.labels) == beyond and len(window.viewer.layers[SHAPES].data) == 1


def test_boxes_lie_where_the_image_does_and_on_its_plane(window):
    image, centres = squares()
    stack = np.stack([np.stack([image, image[::-1]])] * 3)  # (Z, C, Y, X)
    place = {"scale": (4, 1, 0.8, 1.6), "translate": (7, 0, 30, -5)}
    layer = window.viewer.add_image(stack, **place)
    window.form.channel_axis.setCurrentIndex(window.form.channel_axis.findData(1))
    window.form.channels.setText("0")
    window.encode()
    window.viewer.dims.set_current_step(0, 2)
    window.rest()
    window.key_and_wait("B")
    window.drag(*(layer.data_to_world((2, 0, *corner)) for corner in box_around(centres[1])))
    window.wait(lambda: window.viewer.layers.selection.active is window.points)
    window.idle()
    prompt = drawn(centres[1], plane=(2,))
    assert window.panel.annotator.session.prompts == (prompt,) and area(window.labels[2]) == 400
    window.key_and_wait("Shift+S")
    assert [area(plane) for plane in window.labels] == [400] * 3
    layer.scale = (4, 1, 1, 1)
    boxes = window.viewer.layers[SHAPES]
    np.testing.assert_allclose(boxes.scale, window.points.scale)
    boxes.data = boxes.data  # read anew
    window.idle()
    assert window.panel.annotator.session.boxes == (prompt,)


def test_a_box_on_a_plane_that_is_not_encoded_waits_for_it(waiting):
    window, _ = waiting
    assert "1 more waits until plane 3 is encoded" in window.form.object.text()
    window.model.steps.release(PLENTY)
    window.wait(lambda: window.panel.job is None)
    window.idle()
    assert area(window.labels[3]) == 400 and not window.panel.annotator.waiting


def test_a_box_is_drawn_to_its_end_though_the_one_before_is_answered_and_committed_meanwhile(field):
    window, centres = field
    window.key_and_wait("B")
    window.model.gate.clear()
    window.drag(*box_around(centres[0]))
    window.wait(lambda: window.viewer.layers.selection.active is window.points)
    window.key("C")
    window.key("B")
    first, last = (window.pixel(place) for place in box_around(centres[1]))
    window.QTest.mouseMove(window.canvas, first)
    window.app.processEvents()
    window.QTest.mousePress(window.canvas, window.Qt.MouseButton.LeftButton, pos=first)
    window.QTest.mouseMove(window.canvas, first + (last - first) * 0.3)
    window.app.processEvents()
    window.model.gate.set()
    window.idle()
    assert area(window.labels) == 400 and window.panel.annotator.session.label == 2
    for share in (0.6, 1.0):
        window.QTest.mouseMove(window.canvas, first + (last - first) * share)
        window.app.processEvents()
    window.QTest.mouseRelease(window.canvas, window.Qt.MouseButton.LeftButton, pos=last)
    window.wait(lambda: window.viewer.layers.selection.active is window.points)
    window.idle()
    assert window.panel.annotator.session.prompts == (drawn(centres[1]),)
    assert len(window.viewer.layers[SHAPES].data) == 1 and area(window.labels, 2) == 400 and not window.told


def test_a_box_is_copied_to_another_plane(window):
    image, centres = squares()
    window.open(np.stack([image] * 4))
    window.viewer.dims.set_current_step(0, 0)
    window.rest()
    window.key_and_wait("B")
    window.drag(*box_around(centres[0]))
    window.wait(lambda: window.viewer.layers.selection.active is window.points)
    boxes = window.viewer.layers[SHAPES]
    window.viewer.layers.selection.active, boxes.mode, boxes.selected_data = boxes, "select", {0}
    window.key("Ctrl+C")
    window.viewer.dims.set_current_step(0, 2)
    window.rest()
    window.key("Ctrl+V")
    window.idle()
    assert set(window.panel.annotator.session.boxes) == {drawn(centres[0], plane=(z,)) for z in (0, 2)}
    assert [area(plane) for plane in window.labels] == [400, 0, 400, 0]
    assert window.form.object.text() == "Object 1: 2 boxes, 0 clicks, 2 planes"


def test_a_mere_click_draws_no_box_and_a_hidden_layer_of_boxes_is_shown(field):
    window, centres = field
    window.key_and_wait("B")
    boxes = window.viewer.layers[SHAPES]
    window.click_and_wait(centres[0])
    window.rest()
    assert not boxes.data and window.viewer.layers.selection.active is boxes
    window.form.box.click()
    boxes.visible = False
    window.key_and_wait("B")
    window.drag(*box_around(centres[0]))
    window.wait(lambda: window.viewer.layers.selection.active is window.points)
    window.idle()
    assert area(window.labels) == 400
    assert not window.told


def test_boxes_are_drawn_on_planes_of_y_and_x(window):
    image, _ = squares()
    window.open(np.stack([image] * 4))
    window.viewer.dims.order = (1, 0, 2)
    window.form.box.click()
    window.viewer.dims.order = (0, 1, 2)
    window.viewer.dims.ndisplay = 3
    window.form.box.click()
    assert len(window.told) == 2 and all("on a plane of Y and X" in sentence for sentence in window.told)
    assert SHAPES not in window.viewer.layers


def test_boxes_go_on_with_new_clicks_layers_and_new_panels(waiting):
    window, prompt = waiting
    window.viewer.window.remove_dock_widget(window.panel)
    assert SHAPES not in window.viewer.layers
    window.model.steps.release(PLENTY)
    again = Window(window.viewer, window.model)
    again.encode()
    again.idle()
    assert again.panel.annotator.session.prompts == (prompt,) and area(again.labels[3]) == 400
    again.viewer.layers.remove(again.points)
    again.rest()
    again.encode()
    again.idle()
    assert again.panel.annotator.session.prompts == (prompt,)
    assert [layer.name for layer in again.viewer.layers if "shapes" in layer.name] == [SHAPES]
    again.key_and_wait("C")
    assert not again.viewer.layers[SHAPES].data


def test_a_box_that_is_drawn_while_the_slider_moves_is_none(window):
    image, centres = squares()
    window.open(np.stack([image] * 3))
    window.viewer.dims.set_current_step(0, 0)
    window.key("B")
    (top, left), (bottom, right) = box_around(centres[0], 6)
    window.hold((top, left))
    for share, plane in ((4, 2), (8, 2)):
        window.QTest.mouseMove(window.canvas, window.pixel((top + share, left + share)))
        window.app.processEvents()
        window.viewer.dims.set_current_step(0, plane)
        window.rest()
    window.let_go((bottom, right))
    window.idle()
    assert not window.panel.annotator.session.prompts and not window.labels.any()
    assert window.viewer.layers.selection.active is window.points and window.points.mode == "add"
    window.click_and_wait(centres[0])
    assert area(window.labels) == 400 and not window.told


def test_one_undo_too_many_leaves_all_to_be_made_again(field):
    window, centres = field
    for centre in centres[:2]:
        window.click_and_wait(centre)
    for _ in range(3):
        window.key_and_wait("Ctrl+Z")
    assert not window.labels.any() and "nothing to undo" in window.told.pop()
    for _ in range(2):
        window.key_and_wait("Ctrl+Shift+Z")
    assert area(window.labels) == 800 and not window.told
