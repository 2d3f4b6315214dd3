"""What the mouse is for: clicks, or to choose an object. A viewer's model and its layers, no window."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.utils.colormaps.standardize_color import transform_color

from napari_interformer import canvas as module
from napari_interformer.canvas import Canvas
from napari_interformer.clicks import CLICKS
from napari_interformer.drawings import SHAPES
from napari_interformer.layers import GREEN, RED, Source

EDIT = "Edit", "E"  # what an object is chosen for, and the key


@pytest.fixture
def scene(monkeypatch):
    """Return a viewer with a canvas that takes clicks on an image, labels with object 3, and what was told."""
    told = []
    monkeypatch.setattr(module, "show_warning", told.append)
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((40, 60), np.uint8))
    labels = viewer.add_labels(np.pad(np.full((10, 10), 3), ((0, 30), (0, 50))))
    canvas = Canvas(viewer, lambda call: call())
    canvas.changed = lambda: told.append(canvas.picking)
    canvas.add_clicks(Source((image,)))
    canvas.activate()
    return viewer, canvas, labels, told


def click(canvas, position):
    """Do what napari does when the click layer is clicked on."""
    event = SimpleNamespace(
        type="mouse_press",
        pos=np.array(position),
        position=position,
        view_direction=None,
        dims_displayed=[0, 1],
        button=1,
    )
    drags = [
        callback(canvas.clicks.layer, event) for callback in tuple(canvas.clicks.layer.mouse_drag_callbacks)
    ]
    for kind in ("mouse_press", "mouse_release"):
        event.type = kind
        for drag in drags:
            if drag is not None:
                next(drag, None)


def test_a_click_chooses_an_object_once(scene):
    _, canvas, labels, told = scene
    chosen = []
    canvas.pick(labels, chosen.append, *EDIT)
    assert canvas.picking and canvas.clicks.layer.mode == "pan_zoom"
    for _ in range(2):
        click(canvas, (5, 5))
    assert chosen == [3] and canvas.clicks.layer.mode == "add" and told == ["Edit", ""]


def test_where_there_is_no_object_a_sentence_says_so(scene):
    _, canvas, labels, told = scene
    canvas.pick(labels, pytest.fail, *EDIT)
    click(canvas, (30, 30))
    assert "there is none here" in told[-1] and not canvas.picking


def test_choosing_for_something_else_takes_its_place(scene):
    _, canvas, labels, told = scene
    chosen = []
    canvas.pick(labels, pytest.fail, *EDIT)
    canvas.pick(labels, chosen.append, "Delete", "X")
    click(canvas, (30, 30))
    assert told[-1].startswith("Delete needs an object") and "press X" in told[-1]
    canvas.pick(labels, chosen.append, "Delete", "X")
    click(canvas, (5, 5))
    assert chosen == [3] and canvas.clicks.layer.mode == "add"


def test_choosing_is_given_up_when_asked_again_or_another_layer_is_chosen(scene):
    viewer, canvas, labels, told = scene
    viewer.layers.selection.events.active.connect(canvas.layer_chosen)
    for give_up in (
        lambda: canvas.pick(labels, pytest.fail, *EDIT),
        lambda: setattr(viewer.layers.selection, "active", labels),
    ):
        canvas.pick(labels, pytest.fail, *EDIT)
        give_up()
        click(canvas, (5, 5))
    assert not canvas.picking and told == ["Edit", ""] * 2


def test_the_sign_outlives_the_click_layer_which_is_missed_once(scene):
    viewer, canvas, labels, _ = scene
    canvas.positive = False
    old = canvas.clicks
    assert canvas.there and not canvas.newly_gone()
    viewer.layers.remove(old.layer)
    assert not canvas.there and canvas.newly_gone() and not canvas.newly_gone()
    with pytest.raises(ValueError, match="was removed"):
        canvas.pick(labels, pytest.fail, *EDIT)
    new = canvas.renew_clicks()
    assert canvas.there and new is not old and not new.positive
    viewer.layers.remove(new.layer)
    assert canvas.newly_gone()


def test_a_tool_is_taken_in_place_of_another_and_put_down_if_asked_for_again(scene):
    viewer, canvas, _, _ = scene

    def on():
        return viewer.layers.selection.active.name, str(viewer.layers.selection.active.mode)

    line, box, clicks = (SHAPES, "add_path"), (SHAPES, "add_rectangle"), (CLICKS, "add")
    for ask, then in (
        (canvas.draw_line, line),
        (canvas.draw_box, box),
        (canvas.draw_line, line),
        (canvas.draw_line, clicks),
        (canvas.draw_box, box),
        (canvas.draw_box, clicks),
    ):
        ask()
        assert on() == then
    for tool in ("select", "pan_zoom"):  # of napari's
        shapes = viewer.layers[SHAPES]
        viewer.layers.selection.active, shapes.mode = shapes, tool
        canvas.draw_line()
        assert on() == line
        canvas.activate()


def test_the_click_layer_is_shown_when_it_is_asked_for(scene):
    _, canvas, labels, _ = scene
    for ask in (canvas.activate, lambda: canvas.pick(labels, pytest.fail, *EDIT)):
        canvas.clicks.layer.visible = False
        ask()
        assert canvas.clicks.layer.visible
    canvas.give_up_picking()
    assert canvas.clicks.layer.mode == "add"


def test_the_pen_is_of_the_sign_that_is_chosen(scene):
    viewer, canvas, _, _ = scene
    canvas.positive = False
    canvas.draw_line()
    for positive in (False, True, False):
        canvas.positive = positive
        pen = transform_color(viewer.layers[SHAPES].current_edge_color)[0]
        np.testing.assert_allclose(pen, transform_color(GREEN if positive else RED)[0], atol=0.01)
