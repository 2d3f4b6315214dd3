"""Clicks, edits and undo in the window."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from napari_interformer.clicks import CLICKS
from napari_interformer.labels import LABELS
from napari_interformer.layers import GREEN, RED
from napari_interformer.prompts import Click
from panel import THEIRS, after_a_crash, area, begin_held_up, crash
from window import PLENTY, squares

pytest_plugins = ("panel",)
pytestmark = THEIRS


def test_a_click_masks_the_object_at_once(field):
    window, centres = field
    window.click_and_wait(centres[0])
    assert area(window.labels) == 400
    y, x = centres[0]
    assert window.labels[y - 10, x - 10] == 1
    assert window.points.face_color[0] == pytest.approx(_rgba(GREEN), abs=0.01)
    assert not window.told


def test_where_the_mouse_rests_a_click_is_answered_before_it_comes(field):
    window, centres = field
    for centre in (centres[1], centres[0]):  # an earlier test may have left the pointer at either
        window.QTest.mouseMove(window.canvas, window.pixel(centre))
        window.rest()  # until the screen has told, or it tells of both at once: that the pointer is where it was

    def answered() -> bool:  # this very click: the pointer of the screen may rest somewhere else before
        ahead = window.panel.annotator._ahead
        return ahead is not None and ahead.clicks == (Click.at(centres[0]),) and ahead.answer is not None

    window.wait(answered)
    decoded = window.model.decoded
    assert not window.labels.any() and len(window.panel.clicks.layer.data) == 0
    assert not window.form.commit.isEnabled()
    window.click_and_wait(centres[0])
    assert window.model.decoded == decoded and window.labels[centres[0]] == 1
    window.panel.clicks.layer.mode = "pan_zoom"
    window.QTest.mouseMove(window.canvas, window.pixel(centres[1]))
    window.rest(0.2)
    assert window.model.decoded == decoded


def test_t_switches_to_a_negative_click_which_takes_pixels_away(field):
    window, centres = field
    y, x = centres[0]
    window.click_and_wait((y, x))
    window.key("T")
    assert "Negative" in window.form.sign.text()
    window.click_and_wait((y + 7, x + 7))
    assert area(window.labels) < 400
    assert window.labels[y + 7, x + 7] == 0
    assert window.points.face_color[1] == pytest.approx(_rgba(RED), abs=0.01)
    window.key("T")
    assert "Positive" in window.form.sign.text()


def test_undo_and_redo_go_click_by_click(field):
    window, centres = field
    window.click_and_wait(centres[0])
    first = window.labels.copy()
    window.click_and_wait(centres[1])
    second = window.labels.copy()
    window.key_and_wait("Ctrl+Z")
    np.testing.assert_array_equal(window.labels, first)
    assert len(window.points.data) == 1
    window.key_and_wait("Ctrl+Z")
    assert not window.labels.any() and len(window.points.data) == 0
    window.key_and_wait("Ctrl+Shift+Z")
    window.key_and_wait("Ctrl+Shift+Z")
    np.testing.assert_array_equal(window.labels, second)
    assert len(window.points.data) == 2


def test_deleting_a_point_takes_its_part_back(field):
    window, centres = field
    window.click_and_wait(centres[0])
    window.click_and_wait(centres[1])
    window.key("3")
    window.click(centres[0])
    window.key_and_wait("Delete")
    assert len(window.points.data) == 1
    y, x = centres[0]
    assert window.labels[y, x] == 0 and area(window.labels) == 400


def test_dragging_a_point_moves_the_object(field):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key("3")
    window.drag(centres[0], centres[1])
    window.idle()
    assert window.labels[centres[0]] == 0
    assert window.labels[centres[1]] == 1 and area(window.labels) == 400


@pytest.mark.parametrize("key", ["2", "B", "E"])
def test_a_drag_counts_though_another_tool_is_chosen_in_the_midst_of_it(field, key):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key("3")
    window.hold(centres[0])
    for share in (0.3, 0.7, 1.0):
        place = tuple(np.add(centres[0], share * np.subtract(centres[1], centres[0])))
        window.QTest.mouseMove(window.canvas, window.pixel(place))
        window.app.processEvents()
    window.key(key)
    window.let_go(centres[1])
    window.idle()
    (click,) = window.panel.annotator.session.clicks
    np.testing.assert_allclose(window.points.data[0], (click.y, click.x), atol=1)
    assert area(window.labels) == 400 and window.labels[centres[1]] == 1


def test_flipping_a_point_replays(field):
    window, centres = field
    y, x = centres[0]
    window.click_and_wait((y, x))
    window.click_and_wait((y + 7, x))
    window.key_and_wait("F")  # a point just added is selected
    assert window.labels[y + 7, x] == 0 and 0 < area(window.labels) < 400
    assert window.points.face_color[1] == pytest.approx(_rgba(RED), abs=0.01)
    window.key_and_wait("Ctrl+Z")
    assert area(window.labels) == 400


def test_points_that_are_pasted_are_clicks(field):
    # Not in a stack, where napari 0.9.2 itself fails.
    window, centres = field
    y, x = centres[0]
    window.click_and_wait((y, x))
    window.click((y + 7, x + 7), "Right")
    window.idle()
    before = window.labels.copy()
    window.points.selected_data = {0, 1}
    window.key("Ctrl+C")
    window.key_and_wait("Ctrl+V")
    session = window.panel.annotator.session
    assert session.clicks == window.panel.clicks.read() and len(session.clicks) == 4
    assert session.clicks[:2] == tuple(sorted(session.clicks[2:], key=lambda click: not click.positive))
    for _ in range(2):
        window.key_and_wait("Ctrl+Z")
    assert len(window.points.data) == len(session.clicks) == 2
    np.testing.assert_array_equal(window.labels, before)


def test_commit_starts_the_next_object_and_protects_the_last(field):
    window, centres = field
    y, x = centres[0]
    window.click_and_wait((y, x))
    window.key_and_wait("C")
    assert len(window.points.data) == 0
    window.click_and_wait((y, x))  # the same square again: it is taken
    assert "object 1 is already here: press Edit object" in window.form.object.text()
    window.click_and_wait(centres[1])
    assert "other objects" not in window.form.object.text()
    assert (area(window.labels, 1), area(window.labels, 2)) == (400, 400)
    window.key_and_wait("M")
    window.form.overwrite.click()
    window.click_and_wait((y, x))
    assert (area(window.labels, 1), area(window.labels, 3)) == (0, 400)


def test_clear_drops_the_object(field):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("Shift+C")
    assert not window.labels.any() and len(window.points.data) == 0


def test_committing_nothing_is_told(field):
    window, _ = field
    window.key_and_wait("C")
    assert "at least one pixel" in window.told[-1]


def test_edit_goes_on_with_the_object_that_is_clicked(field):
    window, centres = field
    y, x = centres[0]
    window.click_and_wait((y, x))
    window.key_and_wait("C")
    window.key("E")
    assert window.form.edit.isChecked()
    window.click_and_wait((y, x))
    assert "Object 1" in window.form.object.text()
    window.key("T")
    window.click_and_wait((y + 7, x + 7))
    assert 0 < area(window.labels) < 400
    window.key_and_wait("C")
    assert set(np.unique(window.labels)) == {0, 1}
    window.key("E")
    window.click_and_wait((y + 20, x + 20))
    assert "there is none here" in window.told[-1]


@pytest.mark.parametrize("layer", [LABELS, CLICKS])
def test_edit_is_given_up_when_its_layers_go(field, layer):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    window.key("E")
    window.viewer.layers.remove(layer)
    window.wait(lambda: not window.form.edit.isChecked())
    window.encode()
    window.idle()
    told = len(window.told)
    window.click_and_wait(centres[1])  # a click like any other
    assert window.told[told:] == [] and len(window.points.data) == 1
    assert window.labels[centres[1]] == window.panel.annotator.session.label


def test_fast_clicks_are_neither_lost_nor_given_to_the_wrong_object(field):
    window, centres = field
    window.model.gate.clear()
    window.click(centres[0])
    window.click(centres[1])
    window.key("C")
    window.click(centres[2])
    window.click(centres[3])
    window.rest()
    assert not window.labels.any()
    window.model.gate.set()
    window.idle()
    assert [int(window.labels[c]) for c in centres[:4]] == [1, 1, 2, 2]
    assert len(window.points.data) == 2
    window.key_and_wait("Ctrl+Z")  # clicks answered together are undone one by one
    assert [int(window.labels[c]) for c in centres[:4]] == [1, 1, 2, 0]


def test_a_click_outside_is_taken_back(field):
    window, centres = field
    window.click_and_wait(centres[0])
    window.points.add((300, 20))
    window.idle()
    assert "outside" in window.told[-1] or "inside" in window.told[-1]
    assert len(window.points.data) == 1 and area(window.labels) == 400


def test_a_click_on_a_pixel_without_value_is_taken_back(window):
    image, centres = squares()
    image = image.astype(np.float32)
    image[5, 5] = np.nan
    window.open(image)
    window.click_and_wait((5, 5))
    assert "NaN" in window.told[-1] and len(window.points.data) == 0
    window.click_and_wait(centres[0])
    assert area(window.labels) == 400


def test_edit_waits_for_a_click_only_while_it_can_come(field):
    window, centres = field
    layers, edit = window.viewer.layers, window.form.edit
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    window.key("E")
    assert edit.isChecked()
    layers.selection.active = layers[LABELS]
    assert not edit.isChecked() and window.points.mode == "add"
    layers.remove(CLICKS)
    window.rest()
    edit.click()
    assert not edit.isChecked() and "Encode to bring it back" in window.told[-1]
    assert not window.form.object.text().startswith("Click on the object")


def test_the_brush_paints_the_object_at_hand_and_what_somebody_chooses(field):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    window.rest()
    layer = window.viewer.layers[LABELS]
    window.wait(
        lambda: layer.selected_label == 2
    )  # or it would go on with the one that was just finished, over others
    window.click_and_wait(centres[1])
    window.wait(lambda: layer.selected_label == 2)
    layer.brush_size = 5
    y, x = centres[1]
    layer.paint((y, x + 13), layer.selected_label)
    window.idle()
    assert area(window.labels, 2) > 400 and area(window.labels, 1) == 400
    layer.selected_label = 1
    window.click_and_wait((y, x + 5))
    window.rest()
    assert layer.selected_label == 1
    window.key_and_wait("E")
    window.click_and_wait(centres[0])
    window.rest()
    assert layer.selected_label == 1
    window.key_and_wait("C")
    window.click_and_wait(centres[2])
    window.wait(lambda: layer.selected_label == 3)


def test_the_brush_leaves_an_object_that_is_as_it_was_before(field):
    window, centres = field
    for centre in centres[:2]:
        window.click_and_wait(centre)
        window.key_and_wait("C")
    layer = window.viewer.layers[LABELS]
    window.key("E")
    window.click_and_wait(centres[0])
    window.wait(lambda: layer.selected_label == 1)
    window.key_and_wait("Shift+C")
    window.wait(lambda: layer.selected_label == 3)


@pytest.mark.parametrize("key", ["M", "E", "X", "G"])
def test_an_object_that_lost_its_click_and_was_painted_is_left_like_any_other(field, key):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    window.click_and_wait(centres[1])
    window.points.selected_data = {0}
    window.points.remove_selected()
    window.idle()
    layer = window.viewer.layers[LABELS]
    layer.brush_size = 8
    layer.paint(centres[2], 2)
    window.idle()
    window.key_and_wait(key)
    if key in "EX":
        window.click_and_wait(centres[0])
    if key == "E":
        window.key_and_wait("C")
    window.click_and_wait(centres[3])
    assert area(window.labels, 2) < 100 and window.panel.annotator.session.label > 2


def test_the_wheel_changes_nothing_that_it_passes(field):
    from qtpy.QtCore import QPointF
    from qtpy.QtGui import QWheelEvent

    window, _ = field
    form, Qt = window.form, window.Qt
    form.size.setValue(20)
    controls = (form.labels, form.contrast, form.device, form.size)
    before = [(one.text() if one is form.size else one.currentText()) for one in controls]
    for control in controls:
        middle = QPointF(control.rect().center())
        turned = QWheelEvent(
            *(middle, QPointF(control.mapToGlobal(middle)), window.QPoint(), window.QPoint(0, -120)),
            *(Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False),
        )
        window.app.sendEvent(control, turned)
        assert not turned.isAccepted()  # so Qt offers it to the panel
        assert control.focusPolicy() == Qt.FocusPolicy.StrongFocus
    assert before == [(one.text() if one is form.size else one.currentText()) for one in controls]


def test_the_size_is_typed_over_the_words(window):
    size = window.form.size
    words = size.lineEdit()
    window.panel.ensureWidgetVisible(size)
    for _ in range(2):
        window.QTest.mouseClick(words, window.Qt.MouseButton.LeftButton, pos=words.rect().center())
    window.QTest.keyClicks(words, "35")
    assert size.value() == 35


def test_clicks_on_several_planes_shown_as_one_are_told(window):
    image, _ = squares()
    window.open(np.stack([image] * 5))
    window.viewer.layers[0].projection_mode = "max"
    assert "shown as" not in window.form.object.text()
    window.viewer.dims.thickness = (3, 1, 1)
    window.click_and_wait((10, 10))
    assert "is shown as the max of several planes" in window.form.object.text()


@pytest.mark.parametrize("planes", [1, 3])
def test_clicks_need_two_dimensions_and_go_on_after_a_look_in_three(window, planes):
    image, centres = squares()
    window.open(np.stack([image] * planes) if planes > 1 else image)
    window.viewer.dims.ndisplay = 3
    window.viewer.reset_view()
    window.rest()
    window.key("M")
    window.click_and_wait((48, 80))
    assert len(window.points.data) == 0 and "Clicks need the 2-D view" in window.form.object.text()
    window.key("2")  # napari's own, for adding points
    window.click_and_wait((48, 80))
    assert len(window.points.data) == 0 and window.points.mode == "pan_zoom"
    window.viewer.dims.ndisplay = 2
    window.viewer.reset_view()
    window.rest()
    window.click_and_wait(centres[0])
    assert area(window.labels) == 400 and "2-D" not in window.form.object.text()


def test_a_click_that_waits_keeps_the_labels_from_being_changed(waiting):
    window, _ = waiting
    labels = window.panel.labels
    other = window.viewer.add_labels(np.zeros(labels.shape, int), name="other")
    window.form.labels.choose(other)
    window.form.labels.activated.emit(window.form.labels.currentIndex())
    assert "commit [C] or clear" in window.told[-1] and window.panel.labels is labels
    window.model.steps.release(PLENTY)
    window.wait(lambda: window.panel.job is None)
    window.idle()
    assert area(labels.layer.data[3]) == 400


def test_nothing_is_restored_while_an_object_is_open(field, monkeypatch):
    window, centres = field
    window.click_and_wait(centres[0])
    after_a_crash(window, monkeypatch)
    window.click_and_wait(centres[1])
    window.form.restore.click()
    window.idle()
    assert "Restore needs every object to be finished" in window.told[-1]
    assert area(window.labels) == 400


def test_nothing_is_restored_while_a_click_waits(window, monkeypatch):
    image, centres = squares()
    window.open(np.stack([image] * 4))
    window.viewer.dims.set_current_step(0, 0)
    window.click_and_wait(centres[0])
    crash(window, monkeypatch)
    window.viewer.dims.set_current_step(0, 0)
    window.model.steps = threading.Semaphore(0)
    window.encode(wait=False)
    window.wait(lambda: window.panel.notes.offer is not None)
    window.viewer.dims.set_current_step(0, 3)
    window.rest()
    window.click(centres[1])
    window.wait(lambda: window.panel.annotator.waiting)
    window.form.restore.click()
    window.idle()
    assert "Restore needs every object to be finished" in window.told[-1]
    window.model.steps.release(PLENTY)
    window.wait(lambda: area(window.labels[3]) == 400)
    assert not window.labels[:3].any()


def test_clearing_nothing_uses_no_number(field):
    window, centres = field
    window.key_and_wait("Shift+C")
    window.click_and_wait(centres[0])
    window.key_and_wait("Ctrl+Z")
    window.key_and_wait("Shift+C")
    window.click_and_wait(centres[0])
    assert area(window.labels, 1) == 400


def test_edit_says_that_the_labels_are_hidden(field):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    window.viewer.layers[LABELS].visible = False
    window.key("E")
    assert "is hidden" in window.told[-1] and not window.form.edit.isChecked()


def test_a_drag_is_one_step_of_undo_and_none_if_it_leads_out_of_the_image(field):
    window, centres = field
    window.click_and_wait(centres[0])
    window.click_and_wait(centres[1])
    before, decoded = window.points.data.copy(), window.model.decoded
    window.key("3")
    window.drag(centres[1], centres[2])
    window.idle()
    assert [int(window.labels[c]) for c in centres[:3]] == [1, 0, 1] and window.model.decoded == decoded + 1
    window.key_and_wait("Ctrl+Z")
    np.testing.assert_allclose(window.points.data, before, atol=0.5)
    assert [int(window.labels[c]) for c in centres[:3]] == [1, 1, 0]
    window.drag(centres[1], (-8, 60))  # out of the image
    window.idle()
    assert "inside" in window.told[-1]
    np.testing.assert_allclose(window.points.data, before, atol=0.5)


def test_undo_on_the_labels_layer_takes_back_what_came_last_click_or_stroke(field):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    layer = window.viewer.layers.selection.active = window.viewer.layers[LABELS]
    window.panel.clicks.layer.add(centres[1])
    window.idle()
    window.viewer.layers.selection.active = layer
    window.key("Ctrl+Z")
    window.idle()
    assert area(layer.data, 2) == 0 and len(window.points.data) == 0
    window.key_and_wait("Ctrl+Shift+Z")
    assert area(layer.data, 2) == 400 and len(window.points.data) == 1
    layer.paint((60, 60), 5)
    painted = layer.data.copy()
    window.key_and_wait("Ctrl+Z")
    assert layer.data[60, 60] == 0 and area(layer.data, 2) == 400
    window.key_and_wait("Ctrl+Shift+Z")
    np.testing.assert_array_equal(layer.data, painted)
    window.key_and_wait("Ctrl+Z")
    window.key_and_wait("Ctrl+Z")
    assert area(layer.data, 2) == 0 and len(window.points.data) == 0


def test_a_stroke_before_a_click_is_undone_after_it(field):
    window, centres = field
    layer, form = window.viewer.layers[LABELS], window.form
    layer.selected_label = 7
    layer.paint((centres[0][0], centres[0][1] + 10), 5)
    stroke = layer.data.copy()
    assert stroke.any() and form.undo.isEnabled()
    window.idle()
    window.click_and_wait(centres[0])
    layer.paint((60, 60), 9)
    both = layer.data.copy()
    window.click_and_wait(centres[1])
    whole = layer.data.copy()
    form.undo.click()
    window.idle()
    np.testing.assert_array_equal(layer.data, both)
    window.viewer.layers.selection.active = layer
    window.key_and_wait("Ctrl+Z")
    window.key_and_wait("Ctrl+Z")
    np.testing.assert_array_equal(layer.data, stroke)
    assert len(window.points.data) == 0
    form.undo.click()
    window.idle()
    assert not layer.data.any() and not form.undo.isEnabled()
    for _ in range(4):
        form.redo.click()
    window.idle()
    np.testing.assert_array_equal(layer.data, whole)
    assert len(window.points.data) == 2 and not form.redo.isEnabled()


def test_a_right_click_is_negative_and_the_next_click_is_what_it_was(field):
    window, centres = field
    y, x = centres[0]
    window.click_and_wait((y, x))
    window.click((y + 7, x + 7), "Right")
    window.idle()
    assert window.labels[y + 7, x + 7] == 0 and 0 < area(window.labels) < 400
    np.testing.assert_allclose(window.points.face_color[1], _rgba(RED), atol=0.01)
    assert "Positive" in window.form.sign.text() and window.panel.clicks.positive
    window.click_and_wait(centres[1])
    window.points.add(centres[2])
    window.idle()
    signs = [click.positive for click in window.panel.annotator.session.clicks]
    assert signs == [True, False, True, True]
    window.key("T")
    window.click((y, x + 7), "Right")
    window.idle()
    assert not window.panel.annotator.session.clicks[-1].positive and not window.panel.clicks.positive
    for _ in range(2):
        window.key_and_wait("Ctrl+Z")
    assert len(window.points.data) == 3


def _rgba(colour):
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] + [1.0]


def test_that_the_click_layer_is_gone_is_told_once(field):
    window, _ = field
    other = window.viewer.add_image(np.zeros((8, 8)), name="other")
    window.viewer.layers.remove(CLICKS)
    window.rest()
    window.viewer.layers.remove(other)
    window.rest()
    assert [told for told in window.told if "click layer" in told] == window.told and len(window.told) == 1


def test_a_click_that_is_painted_green_is_a_green_one_and_later_ones_have_their_own_colour(field):
    window, centres = field
    (y, x), points = centres[0], window.points
    window.click_and_wait((y, x))
    window.click((y + 8, x + 8), "Right")
    window.idle()
    assert list(points.features["positive"]) == [True, False]
    points.mode = "select"
    points.selected_data = {1}
    points.current_face_color = "lime"  # as the swatch in napari's layer controls does
    window.idle()
    assert list(points.features["positive"]) == [True, True]
    assert [click.positive for click in window.panel.annotator.session.clicks] == [True, True]
    points.mode = "add"
    window.click((y - 8, x - 8), "Right")
    window.idle()
    assert list(points.features["positive"]) == [True, True, False]
    green, again, red = points.face_color
    np.testing.assert_array_equal(green, again)
    assert red[0] > 0.9 > red[1]


def test_one_colour_for_all_points_changes_no_click(field):
    window, centres = field
    (y, x), points = centres[0], window.points
    window.click_and_wait((y, x))
    for sign, place in (("Right", (y + 8, x + 8)), ("Left", centres[1]), ("Right", centres[2])):
        points.face_color = "yellow"
        window.idle()
        window.click(place, sign)
        window.idle()
    signs = [True, False, True, False]
    assert list(points.features["positive"]) == signs
    assert [click.positive for click in window.panel.annotator.session.clicks] == signs
    assert len(points.face_color) == 4


def test_what_was_undone_while_clicks_waited_can_be_redone_after_they_were_answered(window):
    image, centres = squares()
    begin_held_up(window, image)
    for centre in centres[:2]:
        window.click((0, *centre))
        window.rest()
    window.wait(lambda: len(window.panel.annotator.waiting) == 2)
    window.key("Ctrl+Z")
    window.wait(lambda: len(window.panel.annotator.waiting) == 1)
    window.model.steps.release(PLENTY)
    window.wait(lambda: window.panel.job is None and not window.panel.annotator.waiting)
    window.idle()
    assert area(window.labels) == 400 and window.form.redo.isEnabled()
    window.key_and_wait("Ctrl+Shift+Z")
    assert area(window.labels) == 800 and len(window.points.data) == 2
    window.key_and_wait("Ctrl+Z")
    assert area(window.labels) == 400


def test_an_object_that_was_erased_is_not_committed(field):
    window, centres = field
    window.click_and_wait(centres[0])
    layer = window.viewer.layers[LABELS]
    layer.brush_size = 60
    window.viewer.layers.selection.active, layer.mode = layer, "erase"
    window.rest()
    window.click_and_wait(centres[0])
    assert not window.labels.any()
    window.panel.activate()
    window.key_and_wait("C")
    assert "all of its pixels were erased" in window.told[-1] and not window.panel.annotator.session.objects
    window.key_and_wait("Ctrl+Z")
    assert area(window.labels) == 400
    window.key_and_wait("C")
    assert list(window.panel.annotator.session.objects) == [1]


def test_undo_on_the_labels_takes_back_one_object_after_the_other_however_fast(field):
    window, centres = field
    for centre in centres[:3]:
        window.click_and_wait(centre)
        window.click_and_wait((centre[0], centre[1] + 5))
        window.key_and_wait("C")
    window.viewer.layers.selection.active = window.viewer.layers[LABELS]
    for left in (2, 1, 0):
        window.key("Ctrl+Z")
        if left == 2:
            window.idle()
            assert sorted(np.unique(window.labels)) == [0, 1, 2]
    window.idle()
    assert not window.labels.any()
    for _ in range(3):
        window.key("Ctrl+Shift+Z")
    window.idle()
    assert [area(window.labels, label) for label in (1, 2, 3)] == [400] * 3


def test_an_object_that_was_undone_does_not_come_back_by_the_undo_of_the_labels(field):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("Ctrl+Z")
    window.click_and_wait(centres[1])
    window.key_and_wait("C")
    window.viewer.layers.selection.active = window.viewer.layers[LABELS]
    window.key_and_wait("Ctrl+Z")
    window.key_and_wait("Ctrl+Z")
    assert not window.labels.any()


@pytest.mark.parametrize("key", ["T", "C", "Ctrl+Z", "Shift+C", "M"])
def test_another_tool_calls_off_the_choice_of_an_object_to_delete(field, key):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    window.key("X")
    window.key_and_wait(key)
    assert not window.panel.canvas.picking and window.points.mode == "add"
    if key == "T":
        window.key_and_wait("T")
    window.click_and_wait(centres[1])
    assert area(window.labels) == 400 and area(window.labels, 2) == 400


def test_a_click_on_an_object_that_is_there_says_so_and_makes_no_splinter(window):
    image, centres = squares()
    window.viewer.add_image(image)
    y, x = centres[0]
    there = np.zeros(image.shape, np.int32)
    there[y - 9 : y + 9, x - 10 : x + 10] = 7  # of which the answer is a little more
    window.form.labels.choose(window.viewer.add_labels(there))
    window.encode()
    window.idle()
    window.click_and_wait(centres[0])
    assert "object 7 is already here: press Edit object and click on it" in window.form.object.text()
    window.key_and_wait("C")
    assert window.told[-1].startswith("Not committed: object 7 is already there.")
    assert window.panel.annotator.session.unfinished
    window.key_and_wait("E")
    window.click_and_wait(centres[0])
    assert "Object 8 was dropped" in window.told[-1] and area(there, 8) == 0
    window.key_and_wait("Shift+C")
    window.form.overwrite.click()
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    assert area(there, 8) + area(there, 9) == 400 and area(there, 7) == 0


def test_where_clicks_do_nothing_the_panel_says_what_to_do(field):
    window, _ = field
    for active in (window.viewer.layers["image"], None):
        window.viewer.layers.selection.active = active
        window.rest()
        assert window.form.object.text().startswith("To click, select the layer InterFormer clicks.")
    window.viewer.layers.selection.active = window.points
    window.points.mode = "select"
    window.rest()
    assert window.form.object.text().startswith("To add clicks, press 2.")
    window.key("2")
    window.rest()
    assert window.form.object.text() == "Object 1: click on it"


def test_an_object_beside_another_one_is_its_own_however_far_the_answer_leaks(window):
    image, centres = squares()
    window.viewer.add_image(image)
    y, x = centres[0]
    there = np.zeros(image.shape, np.int32)
    there[y - 10 : y + 10, x - 10 : x + 7] = 7  # 85 % of what is bright
    window.form.labels.choose(window.viewer.add_labels(there))
    window.encode()
    window.idle()
    window.click_and_wait((y, x + 8))
    assert "already here" not in window.form.object.text()
    window.key_and_wait("C")
    assert area(there, 8) == 60 and not window.told
    window.key_and_wait("E")
    window.click_and_wait((y, x + 8))
    window.click_and_wait((y, x))  # a correction on the other one's pixels
    window.key_and_wait("M")
    assert area(there, 8) == 60 and not window.told


def test_strokes_by_hand_have_one_label_until_somebody_chooses_another(field):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    layer = window.viewer.layers[LABELS]
    window.wait(lambda: layer.selected_label == 2)
    window.viewer.layers.selection.active = layer
    layer.mode, layer.brush_size = "paint", 3
    for row in (45, 50, 55):
        window.drag((row, 20), (row, 60))
        window.idle()
        window.rest()
    assert sorted(np.unique(window.labels)) == [0, 1, 2]


def test_an_object_that_was_wholly_another_one_is_left_for_that_by_E(field):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    window.click_and_wait(centres[0])
    assert "object 1 is already here" in window.form.object.text()
    window.key_and_wait("E")
    window.click_and_wait(centres[0])
    assert window.panel.annotator.session.label == 1 and area(window.labels) == 400


def test_undo_with_nothing_to_undo_says_how_to_go_on(field):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    window.key_and_wait("Ctrl+Z")
    assert "press Edit object or Delete, and click on it" in window.told[-1] and area(window.labels) == 400


def test_the_keys_are_the_canvas_again_once_a_size_was_typed(field):
    window, _ = field
    size = window.form.size
    size.setFocus()
    size.selectAll()
    window.QTest.keyClicks(size, "20")
    window.QTest.keyClick(size, window.Qt.Key.Key_Return)
    before = window.panel.canvas.positive
    window.QTest.keyClick(window.viewer.window._qt_window.windowHandle(), window.Qt.Key.Key_T)
    assert size.value() == 20 and window.panel.canvas.positive is not before
