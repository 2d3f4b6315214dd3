"""Strokes of napari's brush while clicks are being answered.

They have a viewer of their own: with Mesa's software OpenGL, napari 0.9 crashes when it draws an empty canvas some time after
two layers were painted on.
"""

from __future__ import annotations

import numpy as np
import pytest

from napari_interformer.labels import LABELS
from panel import THEIRS, area, finish_and_hold

pytest_plugins = ("panel",)
pytestmark = THEIRS


@pytest.fixture
def brush(field):
    """Return a window with object 1, a click on another cell that is being answered, and the brush in hand; and the cells."""
    window, centres = field
    finish_and_hold(window, centres[1], centres[0])
    layer = window.viewer.layers.selection.active = window.viewer.layers[LABELS]
    layer.mode, layer.selected_label, layer.brush_size = "paint", 1, 4
    yield window, centres
    layer.mode = "pan_zoom"


def test_an_answer_that_comes_while_the_brush_is_down_is_no_part_of_the_stroke(brush):
    window, centres = brush
    beside = centres[1][0] + 13, centres[1][1]
    window.hold(beside)
    window.model.gate.set()
    window.idle()
    window.let_go(beside)
    window.idle()
    painted = area(window.labels, 1) - 400
    assert painted > 0 and area(window.labels, 2) == 400
    window.panel.undo()
    window.idle()
    assert (area(window.labels, 1), area(window.labels, 2)) == (400, 400)
    window.panel.redo()
    window.idle()
    assert area(window.labels, 1) == 400 + painted
    window.panel.commit()
    window.idle()
    assert area(window.labels, 2) == 400 and not window.told


def test_a_stroke_that_is_given_up_takes_no_answer_with_it(brush):
    window, centres = brush
    layer = window.viewer.layers[LABELS]
    if "brush_stroke" not in layer._overlays:
        pytest.skip("before napari 0.7 the right button begins no stroke")
    pixel = window.pixel((centres[1][0] + 13, centres[1][1]))
    window.QTest.mouseClick(window.canvas, window.Qt.MouseButton.RightButton, pos=pixel)
    window.rest()
    window.model.gate.set()
    window.idle()
    layer.mode = "pan_zoom"
    window.rest()
    assert area(window.labels, 2) == 400


def test_an_object_gets_no_number_that_was_painted_while_the_brush_got_another(brush):
    window, centres = brush
    window.viewer.layers[LABELS].selected_label = 4
    beside = centres[2][0] + 14, centres[2][1]
    window.hold(beside)
    window.model.gate.set()
    window.idle()
    window.rest(0.2)  # the brush is given the object's number
    window.let_go(beside)
    window.idle()
    by_hand = area(window.labels, 4)
    window.viewer.layers.selection.active = window.points
    window.points.mode = "add"
    window.key_and_wait("C")
    for centre in centres[3:5]:
        window.click_and_wait(centre)
        window.key_and_wait("C")
    assert area(window.labels, 4) == by_hand and 4 not in window.panel.annotator.session.objects


def test_an_object_comes_back_under_its_number_after_a_stroke_and_nothing_stays_of_it(field):
    window, centres = field
    window.click_and_wait(centres[0])
    layer = window.viewer.layers.selection.active = window.viewer.layers[LABELS]
    layer.mode, layer.brush_size = "paint", 4
    beside = centres[0][0] + 13, centres[0][1]
    window.hold(beside)
    window.let_go(beside)
    window.idle()
    layer.mode = "pan_zoom"
    both = area(window.labels, 1)
    assert both > 400
    window.points.selected_data = {0}
    window.points.remove_selected()
    window.idle()
    assert area(window.labels, 1) == both - 400
    for left in (both, 400, 0):
        window.panel.undo()
        window.idle()
        assert area(window.labels, 1) == left == (window.labels > 0).sum()
    window.viewer.layers.selection.active = window.points
    window.click_and_wait(centres[2])
    assert area(window.labels, 1) == 400


def test_what_is_painted_while_a_click_is_answered_keeps_its_number(brush):
    window, _ = brush
    window.key("M")  # napari's: a new label
    layer = window.viewer.layers[LABELS]
    layer.paint((60, 60), number := layer.selected_label)
    window.model.gate.set()
    window.idle()
    assert window.panel.annotator.session.label != number and area(window.labels, number) < 400


def test_undo_of_a_stroke_made_while_a_click_was_answered_leaves_no_hole(brush):
    window, centres = brush
    window.viewer.layers[LABELS].paint((centres[0][0], centres[0][1] + 8), 1)
    window.rest()
    window.model.gate.set()
    window.idle()
    assert area(window.labels, 2) < 400
    window.panel.undo()
    window.idle()
    assert area(window.labels, 2) == 400


def test_a_stroke_before_an_object_that_is_cleared_is_taken_back_in_turn(field):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    layer = window.viewer.layers.selection.active = window.viewer.layers[LABELS]
    layer.mode, layer.brush_size, layer.selected_label = "paint", 4, 9
    beside = centres[0][0] + 24, centres[0][1]
    window.hold(beside)
    window.let_go(beside)
    window.idle()
    layer.mode = "pan_zoom"
    window.viewer.layers.selection.active = window.points
    window.key("X")
    window.click_and_wait(centres[0])
    assert not area(window.labels, 1)
    window.click_and_wait(centres[1])
    window.key_and_wait("Shift+C")
    assert set(np.unique(window.labels)) == {0, 9}
    window.key_and_wait("Ctrl+Z")
    assert area(window.labels, 1) == 400 and area(window.labels, 9)
    window.key_and_wait("Ctrl+Z")
    assert not area(window.labels, 9) and area(window.labels, 1) == 400
