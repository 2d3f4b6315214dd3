"""The window: a real viewer, a real mouse, real keys; only the model is a simple one, so that answers are known."""

from __future__ import annotations

import copy
import gc
import importlib
import threading
import time
import weakref
from functools import partial

import dask.array as da
import numpy as np
import pytest
from napari.layers import Labels
from napari.utils.colormaps.standardize_color import transform_color
from qtpy.QtCore import QEvent, QTimer

from napari_interformer import adapting, checkpoint, journal, widget
from napari_interformer.checkpoint import load_model, models
from napari_interformer.clicks import CLICKS
from napari_interformer.drawings import SHAPES
from napari_interformer.encoding import CPU_BATCH
from napari_interformer.files import read_image
from napari_interformer.geometry import Box
from napari_interformer.labels import LABELS, LayerLabels
from napari_interformer.layers import GREEN, RED
from napari_interformer.prompts import BoxPrompt, Click, Scribble
from napari_interformer.samples import cells_sample, nuclei_sample
from napari_interformer.store import Store
from napari_interformer.widget import Panel
from window import PATIENCE, PLENTY, BrightModel, Hands, squares

pytestmark = pytest.mark.filterwarnings(
    # napari's and vispy's own, not of our calls
    "ignore::DeprecationWarning:napari",
    "ignore::DeprecationWarning:vispy",
)


class Window(Hands):
    """A viewer with the panel, and what a person sees and does in it."""

    def __init__(self, viewer, model):
        super().__init__(viewer)
        self.model, self.told = model, []
        # As the menu does, through which napari hands the panel a proxy of the viewer.
        _, self.panel = viewer.window.add_plugin_dock_widget("napari-interformer")
        self.form = self.panel.form

    @property
    def labels(self):
        return self.viewer.layers[LABELS].data

    @property
    def points(self):
        return self.viewer.layers[CLICKS]

    def idle(self):
        annotator = self.panel.annotator
        self.wait(lambda: annotator is None or not annotator.busy)

    def encode(self, wait=True):
        self.rest()  # until the window has its size
        self.viewer.reset_view()
        self.rest()
        self.form.encode.click()
        if wait:
            self.wait(lambda: self.panel.job is None)

    def open(self, image, **kwargs):
        layer = self.viewer.add_image(image, **kwargs)
        self.encode()
        return layer

    def choose(self, image):
        self.form.image.choose(image)
        self.form.image.activated.emit(self.form.image.currentIndex())

    def click_and_wait(self, world):
        self.click(world)
        self.idle()

    def key_and_wait(self, name):
        self.key(name)
        self.idle()


@pytest.fixture
def model(monkeypatch):
    bright = BrightModel()
    monkeypatch.setattr(checkpoint, "load_model", lambda *_, **__: bright)
    monkeypatch.setattr(checkpoint, "models", lambda: {"default": "bright"})
    yield bright
    bright.gate.set()
    bright.steps.release(PLENTY)


@pytest.fixture(scope="module")
def viewer(qapp):
    """One viewer for all tests here, since opening one takes longer than most of them; `window` gives it back empty."""
    from napari import Viewer
    from napari._qt import qt_main_window
    from napari._qt.threads.status_checker import StatusChecker

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StatusChecker, "start", lambda *_: None)
        patch.setattr(qt_main_window._QtMainWindow, "_save_current_window_settings", lambda *_: None)
        opened = Viewer(show=True)
        opened.window.resize(1050, 760)
        gc.freeze()  # napari collects garbage whenever layers go, and need not look through all of torch for it
        yield opened
        gc.unfreeze()
        opened.close()
        qapp.processEvents()
        gc.collect()


@pytest.fixture
def window(viewer, model, monkeypatch, tmp_path):
    monkeypatch.setattr(journal, "folder", lambda: tmp_path / "journal")  # or a test would find another's
    opened = Window(viewer, model)
    for module in ("widget", "canvas", "workspace", "notes"):
        for name in ("show_info", "show_warning"):
            monkeypatch.setattr(f"napari_interformer.{module}.{name}", opened.told.append, raising=False)
    yield opened
    viewer.window.remove_dock_widget("all")
    viewer.layers.clear()
    viewer.dims.ndisplay = 2
    opened.rest()
    # Qt deletes later what nobody needs, in a loop of events that tests do not have; kept, it would slow down the next ones.
    opened.app.sendPostedEvents(None, QEvent.Type.DeferredDelete)


@pytest.fixture
def field(window):
    """Return a window with an encoded image of squares, and the squares' centres."""
    image, centres = squares()
    window.open(image)
    return window, centres


def area(labels, label=1):
    return int((labels == label).sum())


# ------------------------------------------------------------------------------------------------ clicks


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
    assert "all its pixels belong to other objects" in window.form.object.text()
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


# ------------------------------------------------------------------------------------------------ places


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


def box_around(centre, reach=10):
    """Return where to press and where to release for a box of pixels `reach` before a square's centre to as far behind it."""
    y, x = centre
    return (y - reach - 0.4, x - reach - 0.4), (y + reach - 0.6, x + reach - 0.6)


def drawn(centre, reach=10, plane=()):
    """Return the box prompt of `box_around`."""
    y, x = centre
    return BoxPrompt(plane, Box(x - reach, y - reach, x + reach, y + reach))


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


@pytest.fixture
def waiting(window):
    """Return a window in which a box on plane 3 of 4 waits until that is encoded, and the box."""
    image, centres = squares()
    window.viewer.add_image(np.stack([image] * 4))
    window.viewer.dims.set_current_step(0, 0)
    window.model.steps = threading.Semaphore(0)
    window.encode(wait=False)
    window.wait(lambda: window.panel.annotator is not None)
    window.viewer.dims.set_current_step(0, 3)
    window.rest()
    window.key_and_wait("B")
    window.drag(*box_around(centres[0]))
    window.wait(lambda: window.panel.annotator.waiting)
    return window, drawn(centres[0], plane=(3,))


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
    window.form.adapt()
    window.form.green.choose(window.viewer.layers["b"])
    window.viewer.layers["b"].contrast_limits = (10, 150)
    window.encode()
    assert not window.told
    assert window.panel.features.origin.contrast == ((0.0, 200.0), (10.0, 150.0))
    window.click_and_wait(centres[0])
    assert area(window.labels) >= 400


# ------------------------------------------------------------------------------------------------ encode


def test_cancel_stops_within_a_batch_and_keeps_what_is_done(window):
    image, centres = squares()
    window.viewer.add_image(np.stack([image] * 6))
    window.model.steps = threading.Semaphore(20)  # more than two planes, less than four
    window.encode(wait=False)
    window.wait(lambda: window.model.tiles == 20)
    tiles = len(window.panel.features.tiles)
    window.form.cancel.click()
    window.model.steps.release(PLENTY)
    window.wait(lambda: window.panel.job is None)
    assert window.model.tiles <= 20 + CPU_BATCH
    features = window.panel.features
    assert 0 < features.ready_planes().sum() < 6
    assert window.form.bar.text() == f"{features.ready_planes().sum()} of 6 planes"
    window.click_and_wait(centres[0])  # the plane on screen went first
    shown = window.viewer.dims.current_step[0]
    assert area(window.labels[shown]) == 400
    window.encode()
    assert window.panel.features is features and features.ready_planes().all()
    assert window.model.tiles == 6 * tiles  # nothing twice
    assert area(window.labels[shown]) == 400 and len(window.points.data) == 1


def test_clicks_work_on_ready_planes_and_wait_for_others_while_the_rest_is_encoded(window):
    image, centres = squares()
    window.viewer.add_image(np.stack([image] * 4))
    window.viewer.dims.set_current_step(0, 3)
    window.model.steps = threading.Semaphore(0)
    window.encode(wait=False)
    window.wait(lambda: window.panel.annotator is not None)
    window.click(centres[0])
    window.rest(0.1)
    assert "1 more waits until plane 3 is encoded" in window.form.object.text()
    window.key_and_wait("C")
    assert "still being encoded" in window.told[-1]
    window.model.steps.release(len(window.panel.features.tiles))
    window.wait(lambda: window.labels.any())
    assert window.panel.features.ready_planes().tolist() == [False, False, False, True]
    window.model.steps.release(PLENTY)
    window.wait(lambda: window.panel.job is None)
    assert area(window.labels[3]) == 400 and len(window.points.data) == 1


def test_what_is_in_the_middle_of_the_screen_is_encoded_first_and_a_click_before_it(window):
    image, centres = squares((960, 1280))
    window.viewer.add_image(image, scale=(0.5, 2), translate=(40, -10))
    layer = window.viewer.layers[-1]
    window.model.steps = threading.Semaphore(0)
    window.encode(wait=False)
    window.wait(lambda: window.panel.annotator is not None)
    features = window.panel.features
    camera = getattr(window.viewer, "scene", window.viewer).camera
    y, x = centres[-1]
    camera.center = layer.data_to_world((y, x))  # the middle of the image is at hand by now
    window.model.steps.release(2 + 4)
    window.wait(lambda: window.model.tiles == 6)
    window.wait(lambda: features.ready((), Box(x - 16, y - 16, x + 16, y + 16)))
    middle = len(features.tiles) - len(features.waiting((), Box(560, 400, 720, 560)))
    assert middle > 0 and not features.ready((), Box(0, 0, 64, 64))

    window.viewer.reset_view()
    y, x = centres[0]
    window.click(layer.data_to_world((y, x)))
    window.wait(lambda: window.panel.annotator.waiting)
    window.model.steps.release(2 + 4)  # two are at hand, and four lie under the click's window
    window.wait(lambda: window.labels.any())
    window.idle()
    assert window.model.tiles <= 6 + 2 + 4
    assert area(window.labels) == 400 and window.labels[y, x] == 1 and not window.panel.annotator.waiting
    assert window.panel.job is not None  # the rest goes on
    window.form.cancel.click()


def test_a_click_that_waits_is_taken_back_when_encoding_is_cancelled(window):
    image, centres = squares()
    window.viewer.add_image(np.stack([image] * 4))
    window.model.steps = threading.Semaphore(0)
    window.encode(wait=False)
    window.wait(lambda: window.panel.annotator is not None)
    window.form.planes.chosen.emit(3)
    window.rest()
    window.click(centres[0])
    window.wait(lambda: window.panel.annotator.waiting)
    window.form.cancel.click()
    window.model.steps.release(CPU_BATCH)
    window.wait(lambda: window.panel.job is None)
    window.idle()
    assert "plane 3 is not encoded" in window.told[-1]
    assert len(window.points.data) == 0 and not window.labels.any()


def test_it_is_told_whose_planes_are_encoded_and_clicked_on_while_another_image_is_chosen(window):
    image, _ = squares()
    first = window.viewer.add_image(np.stack([image] * 4), name="first")
    window.viewer.add_image(np.stack([image] * 4), name="second")
    window.choose(first)
    window.model.steps = threading.Semaphore(6)
    window.encode(wait=False)
    window.wait(lambda: window.panel.annotator is not None)
    assert not window.form.object.text().startswith("Clicks go")
    window.choose(window.viewer.layers["second"])
    assert window.form.object.text() == "Clicks go to first. Object 1: click on it"
    window.wait(lambda: window.form.bar.text().startswith("first: 1 of 4 planes"))
    window.model.steps.release(PLENTY)
    window.wait(lambda: window.panel.job is None)
    assert window.form.object.text().startswith("Clicks go to first until you press Encode.")
    assert window.form.bar.text() == ""


def test_what_becomes_of_the_open_object_is_told_when_its_image_goes(field):
    window, centres = field
    window.click_and_wait(centres[0])
    window.viewer.layers.remove(window.viewer.layers[0])
    window.wait(lambda: window.panel.annotator is None)
    assert len(window.told) == 1 and "object 1 stays as it is in InterFormer labels" in window.told[0]
    assert area(window.labels) == 400


def begin_and_stop(window, image):
    """Begin to encode a stack of four planes, and stop once clicks can begin."""
    window.viewer.add_image(np.stack([image] * 4))
    window.viewer.dims.set_current_step(0, 0)
    window.model.steps = threading.Semaphore(0)
    window.encode(wait=False)
    window.wait(lambda: window.panel.annotator is not None)
    window.form.cancel.click()
    window.model.steps.release(PLENTY)
    window.wait(lambda: window.panel.job is None)


def test_a_click_on_a_plane_that_is_not_encoded_encodes_that_plane_alone(window):
    image, centres = squares()
    begin_and_stop(window, image)
    tiles = len(window.panel.features.tiles)
    window.viewer.dims.set_current_step(0, 3)
    window.rest()
    window.click(centres[0])
    window.click(centres[1])
    window.wait(lambda: not window.panel.annotator.busy and not window.panel.annotator.waiting)
    window.wait(lambda: window.panel.job is None)
    assert area(window.labels[3]) == 800 and len(window.points.data) == 2
    assert window.panel.features.ready_planes().tolist() == [tiles == 1, False, False, True]
    assert not window.told


def test_the_strip_shows_planes_and_a_click_on_it_goes_there(window):
    image, centres = squares()
    there = np.zeros((5, *image.shape), np.int32)
    there[4, :3, :3] = 9
    place = {"scale": (3, 1, 1), "translate": (7, 0, 0)}
    mine = window.viewer.add_labels(there, **place)
    window.viewer.add_image(np.stack([image] * 5), **place)
    window.viewer.layers.selection.active = window.viewer.layers[-1]
    window.form.labels.choose(mine)
    window.viewer.dims.set_current_step(0, 1)
    window.model.steps = threading.Semaphore(0)
    window.encode(wait=False)
    window.wait(lambda: window.panel.annotator is not None)
    strip = window.form.planes
    assert strip.isVisible() and not strip.state.encoded.any()
    window.model.steps.release(len(window.panel.features.tiles))
    window.wait(lambda: strip.state.encoded.any())
    shown = strip.state.current
    assert shown == 1
    assert strip.state.encoded.tolist() == [n == shown for n in range(5)]
    window.idle()
    assert strip.state.annotated.tolist() == [False] * 4 + [True]
    window.panel.ensureWidgetVisible(strip)
    window.rest()
    window.QTest.mouseClick(
        strip, window.Qt.MouseButton.LeftButton, pos=window.QPoint(strip.x_of(3), strip.height() // 2)
    )
    window.rest()
    assert strip.state.current == 3 and window.panel.job.wanted[0] == (3,)
    window.click(centres[0])
    window.wait(lambda: strip.state.asked.tolist() == [n == 3 for n in range(5)])
    assert "a click waits" in strip.tip(strip.x_of(3))
    seen = strip.grab().toImage()
    colours = [seen.pixelColor(strip.x_of(n) + 3, 3).name() for n in range(5)]
    assert len(set(colours)) == 3 and colours[3] not in colours[:3] and colours[shown] != colours[0]
    window.model.steps.release(PLENTY)
    window.wait(lambda: window.panel.job is None)
    window.idle()
    assert strip.state.encoded.all() and strip.state.annotated.tolist() == [False] * 3 + [True] * 2
    window.key_and_wait("Ctrl+Z")
    assert strip.state.annotated.tolist() == [False] * 4 + [True]


@pytest.mark.parametrize("count", [2, 90, 1000, 5000])
def test_the_strip_shows_any_number_of_planes(window, count):
    from napari_interformer.strip import StackState

    strip = window.form.planes
    encoded = np.arange(count) < count // 2
    strip.show_state(StackState((count,), encoded, ~encoded, encoded & False, count - 1))
    strip.resize(200, strip.sizeHint().height())
    assert strip.plane_at(0) == 0 and strip.plane_at(199) >= count - 1 - count // 200
    for plane in (0, count // 2, count - 1):
        assert abs(strip.plane_at(strip.x_of(plane)) - plane) <= count // 200
    seen = strip.grab().toImage()
    scale = seen.width() / 200
    first, last = (seen.pixelColor(int(x * scale), int(12 * scale)).name() for x in (1, 197))
    assert first != last


def test_the_window_goes_on_while_encoding_and_work_is_done_elsewhere(window):
    image, centres = squares()
    window.viewer.add_image(image)
    window.model.steps = threading.Semaphore(0)
    window.encode(wait=False)
    window.wait(lambda: window.panel.annotator is not None)
    ticks = []
    timer = QTimer()
    timer.setInterval(5)
    timer.timeout.connect(lambda: ticks.append(None))
    timer.start()
    window.wait(lambda: len(ticks) > 20)
    timer.stop()
    assert window.model.tiles == 0  # all of it within one tile
    window.model.steps.release(PLENTY)
    window.wait(lambda: window.panel.job is None)
    window.click_and_wait(centres[0])
    assert window.model.tiles and threading.get_ident() not in window.model.threads


def test_missing_device_is_told(window):
    image, _ = squares()
    window.viewer.add_image(image)
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is CUDA here")
    window.form.device.setCurrentText("cuda")
    window.encode()
    assert "CUDA" in window.told[-1] and window.panel.annotator is None
    window.form.device.setCurrentText("cpu")
    window.encode()
    assert window.panel.annotator is not None


def test_a_file_that_is_no_model_is_told(window, monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setattr("napari_interformer.widget.show_warning", window.told.append)
    wrong = tmp_path / "cells.safetensors"
    wrong.write_bytes(b"not a model at all")
    image, _ = squares()
    window.viewer.add_image(image)
    window.form.add_model(str(wrong))
    window.encode()
    assert "cells.safetensors" in window.told[-1] and "Traceback" not in window.told[-1]
    assert window.panel.annotator is None and window.form.encode.isEnabled()


def test_features_on_disk_are_used_again(window, tmp_path):
    image, centres = squares()
    window.form.store.setText(str(tmp_path / "features.zarr"))
    window.open(image)
    count = window.model.tiles
    window.viewer.layers.remove(window.viewer.layers[LABELS])
    window.wait(lambda: window.panel.annotator is None)
    window.panel.features = None
    window.encode()
    assert window.model.tiles == count
    window.click_and_wait(centres[0])
    assert area(window.labels) == 400


def test_features_that_are_half_there_answer_clicks_and_the_rest_is_added(window, monkeypatch, tmp_path):
    from napari_interformer import encode

    image, centres = squares()
    stack, store = np.stack([image] * 3), tmp_path / "features.zarr"
    encode(stack, window.model, store=store, planes=[(1,)], contrast=(0, 255))
    window.viewer.add_image(stack)
    window.viewer.dims.set_current_step(0, 1)
    window.model.steps, window.model.tiles = threading.Semaphore(0), 0
    window.form.store.setText(str(store))
    looked, look = set(), Store.done
    monkeypatch.setattr(Store, "done", lambda *args: looked.add(threading.get_ident()) or look(*args))
    window.encode(wait=False)
    window.wait(lambda: window.panel.annotator is not None)
    assert (
        looked and threading.get_ident() not in looked
    )  # at a thousand planes on a file server it takes seconds
    window.click_and_wait(centres[0])
    assert window.model.tiles == 0 and area(window.labels[1]) == 400
    assert window.form.planes.state.encoded.tolist() == [False, True, False]
    window.model.steps.release(PLENTY)
    window.wait(lambda: window.panel.job is None)
    assert window.panel.features.ready_planes().all() and area(window.labels[1]) == 400


def test_features_behind_a_url_are_used(window):
    from napari_interformer import encode

    image, centres = squares()
    encode(image, window.model, store="memory://window/features.zarr", contrast=(0, 255))
    window.model.tiles = 0
    window.form.store.setText("memory://window/features.zarr")
    window.open(image)
    window.click_and_wait(centres[0])
    assert window.model.tiles == 0 and area(window.labels) == 400 and not window.told


def test_no_room_on_disk_is_told_and_what_was_there_stays(window, monkeypatch):
    from napari_interformer.features import Features

    image, centres = squares()
    window.open(image)
    window.click_and_wait(centres[0])

    def full(*_, **__):
        raise OSError("Features could not be written to store (No space left on device); free some room.")

    monkeypatch.setattr(Features, "create", full)
    window.encode()
    assert "No space left" in window.told[-1]
    assert area(window.labels) == 400 and len(window.points.data) == 1


# ------------------------------------------------------------------------------------------------ adapt


class School:
    """A window with a model that can learn, an encoded image, finished objects, and a user's folder of models."""

    def __init__(self, window, folder):
        self.window, self.folder = window, folder
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        image, self.centres = squares()
        self.there = np.zeros(image.shape, np.int32)
        for label, (y, x) in enumerate(self.centres[1:], 1):
            self.there[y - 10 : y + 10, x - 10 : x + 10] = label
        self.labels = window.viewer.add_labels(self.there.copy(), name="mine")
        self.image = window.viewer.add_image(image, name="cells: day 3")
        window.form.labels.choose(self.labels)
        window.encode()

    @property
    def session(self):
        return self.window.panel.annotator.session

    @property
    def names(self):
        model = self.window.form.model
        return [model.itemText(i) for i in range(model.count())][:-1]

    @property
    def files(self):
        return sorted(path.name for path in self.folder.rglob("*") if path.is_file())

    def adapt(self, wait=True):
        self.window.form.adapt_model.click()
        if wait:
            self.window.idle()  # it begins when nothing waits in line before it
            self.window.wait(lambda: self.window.panel._adapting is None)
            self.window.idle()

    def choose(self, name):
        model = self.window.form.model
        model.setCurrentIndex(model.findText(name))
        model.activated.emit(model.currentIndex())
        self.window.idle()


@pytest.fixture
def school(window, small_model, monkeypatch, tmp_path):
    from qtpy.QtWidgets import QInputDialog

    # The first optimiser loads it, slowly beside a window that waits.
    importlib.import_module("torch._dynamo")
    bundled, home = tmp_path / "bundled", tmp_path / "home"
    bundled.mkdir()
    checkpoint.save_model(small_model, bundled / "default.safetensors")
    for name, value in {"BUNDLED": bundled, "load_model": load_model, "models": models}.items():
        monkeypatch.setattr(checkpoint, name, value)
    monkeypatch.setattr(checkpoint, "user_models", lambda: home / "models")
    monkeypatch.setattr(QInputDialog, "getText", lambda *_, text: (text, True))
    quick = partial(adapting.AdaptConfig, steps=3, minutes=0, windows_per_step=2, max_clicks=1)
    monkeypatch.setattr(adapting, "AdaptConfig", quick)
    opened = School(window, home)
    plain = adapting.click_loss

    def held(*args):
        opened.entered.set()
        assert opened.go_on.wait(PATIENCE)
        return plain(*args)

    monkeypatch.setattr(adapting, "click_loss", held)
    yield opened
    opened.go_on.set()


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(some, others):
    return all(value.equal(others[name]) for name, value in some.items())


def test_an_adapted_model_is_kept_and_answers_at_once_and_the_old_one_undoes_it(school):
    window, form = school.window, school.window.form
    window.click_and_wait(school.centres[0])
    before, features, old = (
        window.panel.labels[...].copy(),
        window.panel.features,
        weights(school.session.model),
    )
    prompts = school.session.prompts
    school.adapt()
    assert school.files == ["cells- day 3.safetensors"] and school.names == ["default", "cells- day 3"]
    assert form.model_name() == "cells- day 3" in window.told[-1]
    new = weights(school.session.model)
    assert not same(old, new) and same(new, weights(load_model(school.folder / "models" / school.files[0])))
    assert window.panel.features is features and school.session.prompts == prompts
    np.testing.assert_array_equal(school.labels.data, before)
    window.click_and_wait(school.centres[1])
    assert len(school.session.clicks) == 2
    school.choose("default")
    assert same(old, weights(school.session.model)) and window.panel.features is features
    assert len(school.session.clicks) == len(window.points.data) == 2
    form.add_model("cells- day 3")
    window.encode()  # nothing to do for it, but the model chosen is the one that answers
    window.idle()
    assert same(new, weights(school.session.model)) and window.panel.features is features
    assert len(window.told) == 1


def test_while_a_model_learns_clicks_are_answered_and_nothing_else_is_begun(school):
    window, form = school.window, school.window.form
    school.go_on.clear()
    school.adapt(wait=False)
    window.wait(school.entered.is_set)
    controls = (form.encode, form.adapt_model, form.model, form.device)
    assert form.adapt_cancel.isVisible() and not form.adapt_model.isVisible()
    assert form.adapt_bar.text() == "Looking at objects"
    assert not any(control.isEnabled() for control in controls[:1] + controls[2:])
    window.panel.encode()
    assert window.panel.job is None
    window.click_and_wait(school.centres[0])
    assert len(school.session.clicks) == 1
    school.go_on.set()
    window.wait(lambda: window.panel._adapting is None)
    assert all(control.isEnabled() and control.isVisible() for control in controls)


def test_cancelling_adapting_leaves_everything_as_it_was(school):
    window, model = school.window, school.session.model
    before = weights(model)
    school.go_on.clear()
    school.adapt(wait=False)
    window.wait(school.entered.is_set)
    window.form.adapt_cancel.click()
    assert window.form.adapt_bar.format() == "Stopping"
    school.go_on.set()
    window.wait(lambda: window.panel._adapting is None)
    assert school.session.model is model and same(before, weights(model))
    assert school.names == ["default"] and not school.files and not window.told
    school.adapt()
    assert school.names == ["default", "cells- day 3"]


def test_a_name_that_is_taken_gets_a_number(school, monkeypatch):
    from qtpy.QtWidgets import QInputDialog

    offered = []

    def answer(*_, text):
        offered.append(text)
        return "default", len(offered) < 3

    monkeypatch.setattr(QInputDialog, "getText", answer)
    school.adapt()
    school.adapt()
    assert school.names == ["default", "default-2", "default-3"]
    assert school.window.form.model_name() == "default-3"
    school.adapt()  # thought better of it
    assert school.names == ["default", "default-2", "default-3"]


def test_without_finished_objects_there_is_nothing_to_learn_from(school):
    window, form, model = school.window, school.window.form, school.session.model
    school.labels.data = np.zeros_like(school.there)
    assert not form.adapt_model.isEnabled()
    window.click_and_wait(school.centres[0])
    assert not form.adapt_model.isEnabled()
    window.key_and_wait("C")
    assert form.adapt_model.isEnabled()
    school.labels.data[:] = 0  # somebody rubs all of it out
    school.adapt()
    assert "commit some objects first" in window.told[-1]
    assert school.session.model is model and school.names == ["default"] and not school.files


def test_a_click_waits_for_its_plane_until_the_model_has_learnt(school, monkeypatch):
    from napari_interformer.model import InterFormer

    window = school.window
    stack = window.viewer.add_image(np.stack([school.image.data] * 3), name="stack")
    labels = window.viewer.add_labels(np.stack([school.there] * 3), name="its labels")
    window.form.image.choose(stack)
    window.form.labels.choose(labels)
    window.viewer.dims.set_current_step(0, 0)
    begun, first_is_there, go_on = threading.Event(), threading.Event(), threading.Event()
    plain = InterFormer.encode_pixels

    def one_plane(model, pixels, before_layer=None):
        assert begun.wait(PATIENCE)
        if window.panel.features.ready((0,)):
            first_is_there.set()
            assert go_on.wait(PATIENCE)
        return plain(model, pixels)

    monkeypatch.setattr(InterFormer, "encode_pixels", one_plane)
    window.encode(wait=False)
    window.wait(lambda: window.panel.features.leading)
    begun.set()
    window.wait(first_is_there.is_set)
    assert not window.form.adapt_model.isEnabled()  # first the one, then the other
    window.form.cancel.click()
    go_on.set()
    window.wait(lambda: window.panel.job is None)
    school.go_on.clear()
    school.adapt(wait=False)
    window.wait(school.entered.is_set)
    window.viewer.dims.set_current_step(0, 2)
    window.rest()
    window.click_and_wait(school.centres[0])
    assert "until plane 2 is encoded, once the model has finished learning" in window.form.object.text()
    assert window.panel.job is None
    school.go_on.set()
    window.wait(lambda: school.session.clicks and not window.panel.annotator.waiting)
    window.wait(lambda: window.panel.job is None)
    assert school.session.clicks[0].plane == (2,)


def test_closing_while_a_model_learns_keeps_nothing_of_it(school):
    window, panel = school.window, school.window.panel
    school.go_on.clear()
    school.adapt(wait=False)
    window.wait(school.entered.is_set)
    window.viewer.window.remove_dock_widget(panel)
    school.go_on.set()
    panel.encoder._thread.join(PATIENCE)
    assert not panel.encoder._thread.is_alive() and not school.files


def test_removing_the_image_stops_learning(school):
    window = school.window
    school.go_on.clear()
    school.adapt(wait=False)
    window.wait(school.entered.is_set)
    window.viewer.layers.remove(school.image)
    window.wait(lambda: window.panel.annotator is None)
    school.go_on.set()
    window.wait(lambda: window.panel._adapting is None)
    assert not school.files and not window.told


def test_choosing_a_model_that_cannot_answer_here(school, tmp_path):
    import torch

    window, old = school.window, school.session.model
    wrong = school.folder / "models" / "wrong.safetensors"
    wrong.parent.mkdir(parents=True)
    wrong.write_bytes(b"not a model at all")
    torch.manual_seed(1)
    checkpoint.save_model(type(old)(old.config).eval(), wrong.with_name("other.safetensors"))
    window.form.fill_models(list(models()))
    school.choose("wrong")
    assert "wrong.safetensors" in window.told[-1] and window.form.model_name() == "default"
    school.choose("other")
    assert "press Encode" in window.told[-1] and window.form.model_name() == "other"
    assert school.session.model is old
    window.encode()
    assert school.session.model is not old and len(window.told) == 2


# ------------------------------------------------------------------------------------------------ layers


def test_an_existing_labels_layer_is_gone_on_with(window):
    image, centres = squares()
    there = np.zeros(image.shape, np.uint16)
    there[0:5, 0:5] = 7
    layer = window.viewer.add_labels(there, name="mine")
    window.viewer.add_image(image)
    window.form.labels.choose(layer)
    window.encode()
    window.click_and_wait(centres[0])
    assert area(layer.data, 7) == 25 and area(layer.data, 8) == 400
    assert LABELS not in window.viewer.layers


def test_a_labels_layer_of_another_shape_is_told(window):
    image, centres = squares()
    layer = window.viewer.add_labels(np.zeros((10, 10), int), name="small")
    window.viewer.add_image(image)
    window.form.labels.choose(layer)
    window.encode()
    assert "(10, 10)" in window.told[-1] and window.panel.annotator is None
    window.form.labels.choose(None)
    window.encode()
    window.click_and_wait(centres[0])
    assert area(window.labels) == 400


def test_labels_painted_by_hand_are_safe(field):
    window, centres = field
    layer = window.viewer.layers[LABELS]
    layer.selected_label = 5
    layer.paint((60, 60), 5)
    window.idle()
    painted = area(layer.data, 5)
    window.click_and_wait(centres[0])
    assert area(layer.data, 5) == painted and area(layer.data, 6) == 400


def test_layers_may_be_renamed_and_removed(field):
    window, centres = field
    window.viewer.layers[0].name = "renamed"
    assert window.form.image.currentText() == "renamed"
    window.click_and_wait(centres[0])
    window.viewer.layers.remove(window.points)
    assert area(window.labels) == 400
    window.encode()
    assert len(window.points.data) == 1
    window.click_and_wait(centres[1])
    assert area(window.labels) == 800
    window.viewer.layers.remove(window.viewer.layers[LABELS])
    window.wait(lambda: window.panel.annotator is None)
    window.encode()
    window.click_and_wait(centres[0])
    assert area(window.labels) == 400
    window.viewer.layers.remove("renamed")
    window.wait(lambda: window.panel.annotator is None)
    assert not window.form.encode.isEnabled()
    assert LABELS in window.viewer.layers and area(window.labels) == 400


def test_another_image_gets_its_own_labels(field):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    first = window.viewer.layers[LABELS]
    image, _ = squares((64, 64))
    window.viewer.add_image(image, name="second")
    window.form.image.choose(window.viewer.layers["second"])
    window.panel._image_chosen()
    window.encode()
    window.click_and_wait((20, 20))
    assert area(first.data) == 400 and first in window.viewer.layers
    assert area(window.panel.labels.layer.data) == 400 and window.panel.labels.layer is not first
    window.form.image.choose(window.viewer.layers[0])  # back to the first one, and to its labels
    window.panel._image_chosen()
    assert window.form.labels.layer() is first


def test_a_panel_that_is_opened_again_goes_on_with_the_labels(field):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    labels = window.viewer.layers[LABELS]
    window.viewer.window.remove_dock_widget(window.panel)
    window.panel = Panel(window.viewer)
    window.form = window.panel.form
    window.viewer.window.add_dock_widget(window.panel, name="InterFormer")
    window.encode()
    window.click_and_wait(centres[1])
    assert (area(labels.data, 1), area(labels.data, 2)) == (400, 400)
    assert [layer.name for layer in window.viewer.layers][1:] == [LABELS, CLICKS]
    window.key_and_wait("C")
    assert window.panel.annotator.session.objects.keys() == {1, 2}, "what was clicked before is saved, too"


@pytest.mark.parametrize("answered", [True, False])
def test_a_panel_that_is_opened_again_goes_on_with_the_object_that_was_not_committed(window, answered):
    image, centres = squares()
    window.viewer.add_image(np.stack([image] * 3))
    window.viewer.dims.set_current_step(0, 1)
    window.model.steps = threading.Semaphore(PLENTY if answered else 0)
    window.encode(wait=False)
    window.wait(lambda: window.panel.annotator is not None)
    if answered:
        window.wait(lambda: window.panel.job is None)
    window.click(centres[0])
    window.wait(lambda: window.panel.annotator.session.clicks or window.panel.annotator.waiting)
    labels = window.panel.labels.layer
    window.viewer.window.remove_dock_widget(window.panel)
    window.model.steps.release(PLENTY)
    window.panel = Panel(window.viewer)
    window.form = window.panel.form
    window.viewer.window.add_dock_widget(window.panel, name="InterFormer")
    window.encode()
    window.wait(lambda: window.panel.annotator.session.clicks)
    window.idle()
    assert [layer.name for layer in window.viewer.layers][1:] == [LABELS, CLICKS]
    assert window.panel.annotator.session.label == 1 and len(window.points.data) == 1
    window.click_and_wait(centres[1])
    window.key_and_wait("C")
    assert (area(labels.data, 1), len(window.points.data), window.told) == (800, 0, [])


def test_nothing_is_cut_off_when_rows_are_added(window):
    image, _ = squares()
    window.rest()
    window.panel.setMinimumWidth(50)  # whatever the panel thought to be its width before
    window.viewer.add_image(np.stack([image] * 3), name="channels")
    window.viewer.add_image(image, name="another")
    window.form.image.choose(window.viewer.layers["channels"])
    window.panel._image_chosen()
    window.form.channel_axis.setCurrentIndex(1)
    window.rest()
    assert window.form.channels.isVisible() and window.form.green.isVisible()
    window.wait(lambda: window.panel.viewport().width() >= window.form.minimumSizeHint().width())
    assert window.panel.minimumWidth() > window.form.minimumSizeHint().width()


def test_what_matters_is_seen_on_a_small_screen_once_the_image_is_encoded(window):
    image, centres = squares()
    window.wait(lambda: window.form.model.count() > 0)
    before = window.viewer.window.geometry()[2:]

    def seen(*controls):
        view = window.panel.viewport()
        inside = (
            view.rect().contains(one.rect().translated(one.mapTo(view, window.QPoint()))) for one in controls
        )
        return all(one.isVisible() for one in controls) and all(inside)

    try:
        window.viewer.window.resize(1000, 768)
        window.rest(0.2)
        window.open(image, name="cells")
        window.click_and_wait(centres[0])
        form = window.form
        most = form.object, form.commit, form.new, form.undo, form.redo, form.clear
        assert window.panel.verticalScrollBar().maximum() == 0
        assert seen(form.setup.header, form.encode, *most, form.overwrite, form.propagate, form.load_prompts)
        window.viewer.window.resize(1000, 600)
        window.rest(0.2)
        assert seen(form.setup.header, form.encode, form.sign, *most)
    finally:
        window.viewer.window.resize(*before)


def test_the_setup_is_folded_when_clicks_can_begin_and_opened_by_its_header(window):
    image, _ = squares()
    form, setup = window.form, window.form.setup
    width = window.panel.minimumWidth()
    assert setup.open and form.image.isVisible() and "Setup" in setup.header.text()
    window.model.steps = threading.Semaphore(0)
    stack = window.viewer.add_image(np.stack([image] * 3), name="this & that")
    window.encode(wait=False)
    window.wait(lambda: window.panel.annotator is not None)
    assert setup.open  # nothing can be clicked on
    window.model.steps.release(len(window.panel.features.tiles))
    window.wait(lambda: not setup.open)
    assert not form.image.isVisible() and form.encode.isVisible() and form.planes.isVisible()
    assert "this && that, default" in setup.header.text() and "this & that" in setup.header.toolTip()
    assert window.panel.minimumWidth() == width
    setup.header.setFocus()
    window.QTest.keyClick(setup.header, window.Qt.Key.Key_Space)
    assert setup.open and form.image.isVisible() and "that" not in setup.header.text()
    window.model.steps.release(PLENTY)
    window.wait(lambda: window.panel.job is None)
    assert setup.open  # as a person wanted it
    form.store.setFocus()
    window.encode()
    assert not setup.open and not form.store.hasFocus()
    stack.name = "W" * 80
    window.rest()
    words = setup.header.text()
    assert "…" in words and words.endswith(", default")
    assert setup.header.fontMetrics().horizontalAdvance(words) < setup.header.width()


def test_the_setup_opens_where_it_is_needed_and_works_when_folded(field, monkeypatch):
    window, _ = field
    form = window.form
    assert not form.setup.open
    monkeypatch.setattr("qtpy.QtWidgets.QFileDialog.getExistingDirectory", lambda *_: "/nowhere/at/all.zarr")
    form.browse.click()
    second = window.viewer.add_image(squares()[0] + 1, name="second")
    window.choose(second)
    assert "Clicks go to" in form.object.text() and "second" in form.setup.header.text()
    window.encode()
    assert form.setup.open and window.told  # there is no such folder
    form.store.setText("")
    window.encode()
    assert not form.setup.open and window.panel.clicks.source.image is second
    window.viewer.layers.remove(second)
    window.rest()
    assert form.setup.open and window.panel.annotator is None


@pytest.mark.parametrize("name", ["20261127_HeLa_H2B-mCherry_LifeAct-GFP_63x_pos003_MAX.ome.tif", "W" * 80])
def test_no_name_makes_the_panel_wider(window, name):
    image, _ = squares()
    first = window.open(image, name="a")
    second = window.viewer.add_image(image, name="b")
    window.form.add_model("model.safetensors")

    def width():
        widths = []
        for layer in (first, second):  # of the second one, it says where clicks go
            window.choose(layer)
            window.rest()
            widths.append((window.panel.width(), window.panel.minimumWidth()))
        return widths

    before = width()
    assert "Clicks go to a until" in window.form.object.text()
    first.name = second.name = name
    window.panel.labels.layer.name = f"{name} labels"
    window.form.add_model(f"/models/{name}.safetensors")
    assert width() == before
    text = window.form.object.text()
    assert name not in text and name[:4] in text and name[-4:] in text


def test_closing_gives_keys_back_and_keeps_labels(field):
    window, centres = field
    window.click_and_wait(centres[0])
    points, labels = window.points, window.viewer.layers[LABELS]
    assert points.keymap and labels.keymap
    window.viewer.window.remove_dock_widget(window.panel)
    assert not points.keymap and not labels.keymap and SHAPES not in window.viewer.layers
    assert area(labels.data) == 400 and labels in window.viewer.layers
    window.key("M")  # napari's key of a Labels layer, nothing of ours
    assert not window.told


def test_a_closed_panel_and_its_features_are_forgotten_though_answers_were_on_their_way(field):
    window, centres = field
    panel = window.panel
    window.wait(lambda: window.model.decoded == 1)  # of a black window, so that the first click is fast
    window.model.gate.clear()
    window.click(centres[0])
    window.click(centres[1])
    decoding = panel.decoder._thread
    gone = [weakref.ref(one) for one in (panel, panel.features, panel.annotator.session)]
    window.viewer.window.remove_dock_widget(panel)
    del panel, window.panel, window.form
    window.model.gate.set()
    decoding.join(PATIENCE)
    window.app.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    window.wait(lambda: gc.collect() is not None and not any(one() for one in gone))
    assert window.model.decoded <= 2  # what waited behind it was not worked on any more


def test_keys_that_napari_uses_stay_napari_s(field):
    window, _ = field
    points, labels = window.points, window.viewer.layers[LABELS]
    from napari.settings import get_settings

    taken = get_settings().shortcuts.shortcuts
    ours = {str(key) for key in points.keymap}
    for name, keys in taken.items():
        everywhere = name.split(":")[1].startswith(("toggle", "select", "hold", "increment"))
        if "points" in name or (everywhere and not name.endswith("_labels")):
            assert not ours & {str(key) for key in keys}, name
    ours = {str(key) for key in labels.keymap}
    for name, keys in taken.items():
        if "label" in name or "brush" in name or "polygon" in name:
            assert not ours & {str(key) for key in keys}, name
    window.key_and_wait("B")
    boxes = window.viewer.layers[SHAPES]
    boxes.mode = "select"  # while a tool of ours is on, its keys are
    ours = {str(key) for key in boxes.keymap}
    for name, keys in taken.items():
        if "shape" in name or "polygon" in name:
            assert not ours & {str(key) for key in keys}, name
    assert ours and not {str(key) for key in type(boxes).class_keymap} & ours
    # These two are ours as long as there is an object.
    undo = {f"{key}+Z" for key in ("Ctrl", "Ctrl+Shift", "Meta", "Shift+Meta", "Meta+Shift")}
    assert {str(key) for key in type(labels).class_keymap} & ours <= undo


def test_labels_and_clicks_are_saved_and_clicks_replayed(field, tmp_path, monkeypatch):
    import tifffile
    from qtpy.QtWidgets import QFileDialog

    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    window.click_and_wait(centres[1])
    window.viewer.layers[LABELS].scale = (-1, 1)  # a mirrored layer has pixels like any other
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "labels.ome.tif"), ""))
    window.form.save_labels.click()
    window.idle()
    assert "labels.ome.tif" in window.told[-1]
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "labels.ome.tif"), window.labels)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "clicks.json"), ""))
    window.form.save_prompts.click()
    window.idle()
    whole = window.labels.copy()
    window.key_and_wait("Shift+C")
    window.viewer.layers[LABELS].data = np.zeros_like(whole)
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(tmp_path / "clicks.json"), ""))
    window.form.load_prompts.click()
    window.idle()
    assert window.told[1:] == ["The clicks were saved as clicks.json."]
    np.testing.assert_array_equal(window.labels, whole)
    assert len(window.points.data) == 1


@pytest.mark.parametrize("answered", [True, False])
def test_clicks_are_not_loaded_into_an_object_that_is_open(field, tmp_path, monkeypatch, answered):
    from qtpy.QtWidgets import QFileDialog

    window, centres = field
    asked = []

    def choose(*_):
        asked.append(True)
        return str(tmp_path / "clicks.json"), ""

    monkeypatch.setattr(QFileDialog, "getOpenFileName", choose)
    if not answered:
        window.model.gate.clear()
    window.click(centres[0])
    if answered:
        window.idle()
    window.form.load_prompts.click()
    window.model.gate.set()
    window.idle()
    assert window.told == [
        "Load clicks needs every object to be finished; object 1 is not: commit or clear it first."
    ]
    assert len(asked) == (not answered) and area(window.labels) == 400


@pytest.mark.parametrize("typed", ["mine", "mine.v2"])
def test_an_ending_is_added_and_replaces_nothing_unasked(field, tmp_path, monkeypatch, typed):
    from qtpy.QtWidgets import QFileDialog

    window, centres = field
    window.click_and_wait(centres[0])
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / typed), ""))
    for button, name in (
        (window.form.save_prompts, f"{typed}.json"),
        (window.form.save_labels, f"{typed}.ome.tif"),
    ):
        button.click()
        window.idle()
        assert name in window.told[-1]
        (tmp_path / name).write_text("of value")
        button.click()
        window.idle()
        assert f"{name} already exists" in window.told[-1] and (tmp_path / name).read_text() == "of value"


@pytest.mark.parametrize(("scale", "size"), [(1, 0.325), (2, 2)])
def test_labels_have_the_pixel_size_of_the_file_unless_somebody_gave_one(
    window, tmp_path, monkeypatch, scale, size
):
    import tifffile
    from qtpy.QtWidgets import QFileDialog

    image, centres = squares()
    told = {"axes": "YX", "PhysicalSizeX": 0.325, "PhysicalSizeY": 0.325}
    tifffile.imwrite(tmp_path / "image.ome.tif", image, metadata=told)
    (layer,) = window.viewer.open(tmp_path / "image.ome.tif", plugin="napari")
    layer.scale = (scale, scale)
    window.encode()
    window.click_and_wait(np.multiply(centres[0], scale))
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "labels.ome.tif"), ""))
    window.form.save_labels.click()
    window.idle()
    saved = read_image(tmp_path / "labels.ome.tif")
    assert saved.scale == (size, size) and saved.unit == ("micrometer" if size < 1 else "pixel")


def test_a_new_store_is_not_made_where_no_folder_is(window, tmp_path):
    image, _ = squares()
    window.form.store.setText(str(tmp_path / "no" / "x.zarr"))
    window.open(image)
    assert "no does not exist" in window.told[-1] and not list(tmp_path.glob("*"))


def crash(window, monkeypatch, labels=None):
    """Let the clicks be noted, then open the same image in a window that knows nothing, as after a crash; encode nothing."""
    panel = window.panel
    panel.notes.timer.timeout.emit()  # unless it has come already, on a busy machine
    panel.notes.journal._thread.shutdown(wait=True)
    monkeypatch.setattr(journal, "_OWN", set())
    window.viewer.window.remove_dock_widget("all")
    image = window.viewer.layers[0].data
    window.viewer.layers.clear()
    window.rest()
    window.panel = Panel(window.viewer)
    window.viewer.window.add_dock_widget(window.panel, name="InterFormer")
    window.form = window.panel.form
    window.viewer.add_image(image)
    if labels is not None:
        window.form.labels.choose(window.viewer.add_labels(labels))


def after_a_crash(window, monkeypatch, labels=None):
    """Do as after a `crash`, and encode."""
    crash(window, monkeypatch, labels)
    window.encode()
    window.idle()


def test_what_went_with_a_layer_that_was_removed_is_restored(field):
    window, centres = field
    for centre in centres[:2]:
        window.click_and_wait(centre)
        window.key_and_wait("C")
    window.viewer.layers.remove(LABELS)
    written = window.panel.notes.journal
    window.encode()
    window.idle()
    assert written is not window.panel.notes.journal and "Not in these labels: 2 objects" in window.told[-1]
    window.form.restore.click()
    window.idle()
    assert [area(window.labels, label) for label in (1, 2)] == [400, 400]


def test_what_was_clicked_before_a_crash_is_restored(field, monkeypatch):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    window.click_and_wait(centres[1])
    before, restore = window.labels.copy(), window.form.restore
    assert not restore.isVisible()
    path = window.panel.notes.journal.path
    after_a_crash(window, monkeypatch)
    assert not window.labels.any()
    window.wait(window.form.restore.isVisible)
    assert window.form.restore.text().startswith("Restore 2 objects of ")
    assert "2 objects" in window.told[-1] and path.exists()
    window.form.restore.click()
    window.idle()
    np.testing.assert_array_equal(window.labels, before)
    assert len(window.points.data) == 1 and not window.form.restore.isVisible()
    window.panel.notes.timer.timeout.emit()
    window.wait(lambda: not path.exists() and window.panel.notes.journal.path.exists())
    window.key_and_wait("Ctrl+Z")
    assert set(np.unique(window.labels)) == {0, 1}


def test_what_the_labels_hold_is_not_offered(field, monkeypatch):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    after_a_crash(window, monkeypatch, labels=window.labels.copy())
    window.rest()
    assert not window.form.restore.isVisible() and not window.told
    assert window.panel.annotator.session.label == 2


def test_an_offer_ends_with_the_first_object_that_takes_a_number(field, monkeypatch):
    window, centres = field
    window.click_and_wait(centres[0])
    after_a_crash(window, monkeypatch)
    window.wait(window.form.restore.isVisible)
    window.click_and_wait(centres[1])
    window.form.restore.click()  # refused: there is an object
    window.idle()
    assert "commit or clear it first" in window.told[-1] and window.form.restore.isVisible()
    window.key_and_wait("C")
    window.panel.notes.timer.timeout.emit()
    assert not window.form.restore.isVisible()


# ------------------------------------------------------------------------------------------------ surprises


def test_after_an_image_is_removed_the_next_one_is_annotated(field):
    window, centres = field
    window.click_and_wait(centres[0])
    window.viewer.layers.remove(window.viewer.layers[0])
    window.wait(lambda: window.panel.annotator is None)
    window.rest()
    assert len(window.points.data) == 0 and not window.form.bar.text()
    image, centres = squares((64, 64))
    window.open(image, name="next")  # without a click layer, napari would be killed now
    window.click_and_wait(centres[0])
    assert [layer.name for layer in window.viewer.layers] == [LABELS, "next", f"{LABELS} [1]", CLICKS]
    assert area(window.panel.labels.layer.data) == 400
    window.key_and_wait("C")
    window.viewer.window.remove_dock_widget(window.panel)
    window.viewer.layers.remove("next")
    window.rest()
    window.viewer.add_image(image)  # or now
    window.rest()
    assert CLICKS in window.viewer.layers


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


def test_one_click_and_g_find_all_that_looks_alike_and_undo_takes_it_back(field):
    window, centres = field
    assert not window.form.similar.isEnabled()
    window.click_and_wait(centres[0])
    window.key_and_wait("G")
    assert sorted(window.labels[centre] for centre in centres) == list(range(1, 9))
    assert all(area(window.labels, label) == 400 for label in range(1, 9))
    assert len(window.points.data) == 0 and window.form.object.text().startswith("Object 9: click on it")
    assert "7 similar objects were found" in window.told[-1]
    window.key_and_wait("G")
    assert "No other object" in window.told[-1] and window.labels.max() == 8
    window.key_and_wait("Ctrl+Z")
    assert set(np.unique(window.labels)) == {0, 1}
    window.key_and_wait("Ctrl+Shift+Z")
    assert window.labels.max() == 8
    window.click_and_wait(centres[0])  # it is an object like any other
    assert window.panel.annotator.session.label == 9


def test_x_and_a_click_delete_an_object_and_undo_brings_it_back(field):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("G")
    window.key("X")
    assert window.form.delete.isChecked() and not window.form.edit.isChecked()
    assert "to delete" in window.form.object.text()
    window.key("E")  # rather edit one
    assert window.form.edit.isChecked() and not window.form.delete.isChecked()
    window.key("X")
    window.click_and_wait(centres[3])
    window.idle()
    assert window.labels[centres[3]] == 0 and len(np.unique(window.labels)) == 8
    assert window.points.mode == "add" and not window.form.delete.isChecked()
    window.key_and_wait("Ctrl+Z")
    assert window.labels[centres[3]] > 0
    window.key("X")
    window.click_and_wait((2, 2))
    assert "press X and click on one" in window.told[-1]
    window.key("X")
    window.key("X")
    assert not window.form.delete.isChecked()
    window.click_and_wait(centres[3])
    assert len(window.points.data) == 1 and window.labels.max() == 8


@pytest.mark.parametrize("multiscale", [False, True])
def test_similar_objects_are_looked_for_where_a_person_looks(window, multiscale):
    image, centres = squares((192, 320))
    layers = [image, image[::2, ::2]] if multiscale else image
    layer = window.open(layers, multiscale=multiscale, scale=(2, 2), translate=(7, 9))
    window.click_and_wait(layer.data_to_world(centres[0]))
    camera = window.panel.screen.camera
    camera.zoom *= 2
    camera.center = (0, *layer.data_to_world((60, 90)))
    window.rest(0.3)
    window.key_and_wait("G")
    labels = window.panel.labels
    found = [centre for centre in centres if labels[centre]]
    seen = window.panel.screen.seen(window.panel.clicks.source, labels.layer)
    inside = [c for c in centres if seen.holds(Box(c[1], c[0], c[1] + 1, c[0] + 1))]
    assert found == inside and 4 < len(found) < len(centres)


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


def test_a_copy_of_the_labels_is_a_backup_and_not_gone_on_with(field):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    labels, image = window.viewer.layers[LABELS], window.viewer.layers[0]
    backup = Labels.create(*copy.deepcopy(labels.as_layer_data_tuple()))
    window.viewer.add_layer(backup)
    other = window.viewer.add_image(squares()[0][::-1].copy())
    for chosen in (other, image):
        window.choose(chosen)
        window.encode()
    assert window.panel.labels.layer is labels
    window.click_and_wait(centres[1])
    assert area(labels.data, 2) == 400 and not (backup.data == 2).any()


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


def test_finding_can_be_stopped_and_clicks_meanwhile_come_after_it(field, monkeypatch):
    window, centres = field
    window.click_and_wait(centres[0])
    decode, steps = window.model.decode_logits, threading.Semaphore(2)

    def held(*args):
        assert steps.acquire(timeout=PATIENCE)
        return decode(*args)

    monkeypatch.setattr(window.model, "decode_logits", held)
    window.form.similar.click()
    window.wait(lambda: "Finding" in window.form.object.text())
    assert window.form.stop.isVisible() and not window.form.similar.isVisible()
    window.click(centres[7])
    window.form.stop.click()
    steps.release(PLENTY)
    window.idle()
    session = window.panel.annotator.session
    assert 1 < len(session.records) < 8 and [click.position for click in session.clicks] == [centres[7]]
    assert window.form.similar.isVisible()


def test_finding_needs_a_finished_object_and_a_plane(field):
    window, centres = field
    window.key_and_wait("G")
    assert "click on one and commit it first" in window.told[-1]
    window.click_and_wait(centres[0])
    window.viewer.dims.ndisplay = 3
    window.form.similar.click()
    window.idle()
    assert "2-D view" in window.told[-1] and window.panel.annotator.session.clicks


def test_removing_the_labels_stops_propagating(window, monkeypatch):
    image, centres = squares((64, 64))
    window.open(np.stack([image] * 12))
    window.click_and_wait(centres[0])
    decode, steps, before = window.model.decode_logits, threading.Semaphore(2), window.model.decoded

    def held(*args):
        assert steps.acquire(timeout=PATIENCE)
        return decode(*args)

    def show(*_):  # napari's progress bars handle events while they are drawn
        if LABELS in window.viewer.layers:
            window.viewer.layers.remove(LABELS)
        window.rest()

    monkeypatch.setattr(window.model, "decode_logits", held)
    monkeypatch.setattr("napari_interformer.worker.Job.show", show)
    window.key("Shift+S")
    window.wait(lambda: window.panel.annotator is None)
    steps.release(PLENTY)
    ended = []
    window.panel.decoder.run(lambda: None, ended.append, ended.append)
    window.wait(lambda: ended)
    assert window.model.decoded - before < 5
    assert window.form.object.text().startswith("Press Encode") and not window.form.stop.isVisible()


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


def test_labels_of_8_bit_are_gone_on_with_beyond_255(field):
    window, centres = field
    there = np.zeros(window.labels.shape, np.uint8)
    there[0, 0] = 254
    layer = window.viewer.add_labels(there, name="opened")
    window.form.labels.choose(layer)
    window.form.labels.activated.emit(window.form.labels.currentIndex())
    for centre in centres[:2]:
        window.click_and_wait(centre)
        window.key_and_wait("C")
    assert [area(layer.data, label) for label in (254, 255, 256)] == [1, 400, 400] and not window.told


def test_what_is_painted_while_labels_are_looked_through_stays_if_they_are_made_wider(field, monkeypatch):
    window, _ = field
    there = np.zeros(window.labels.shape, np.uint8)
    there[0, 0] = 254
    layer = window.viewer.add_labels(there, name="opened")
    goes, looked = threading.Event(), LayerLabels.survey

    def survey(labels, *planes):
        assert goes.wait(PATIENCE)
        return looked(labels, *planes)

    monkeypatch.setattr(LayerLabels, "survey", survey)
    window.form.labels.choose(layer)
    window.form.labels.activated.emit(window.form.labels.currentIndex())
    layer.selected_label, layer.brush_size = 7, 1
    wider, made = LayerLabels.wider, threading.Event()
    monkeypatch.setattr(LayerLabels, "wider", lambda *args: (wider(*args), made.set())[0])
    layer.paint((50, 60), 7)
    goes.set()
    assert made.wait(PATIENCE)
    layer.paint((50, 61), 7)  # into the labels that have been copied already
    window.idle()
    assert layer.data.dtype == np.int32 and (layer.data == 7).sum() == 2 and layer.data[0, 0] == 254
    for _ in range(2):
        window.panel.undo()
    window.idle()
    assert not (layer.data == 7).any()


def test_the_brush_paints_the_object_at_hand_and_what_somebody_chooses(field):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    window.rest()
    layer = window.viewer.layers[LABELS]
    assert layer.selected_label == 1  # the one that was just finished may be touched up
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


def test_another_image_with_the_same_pixels_gets_its_own_clicks_and_labels(field):
    window, centres = field
    window.click_and_wait(centres[0])
    first, tiles = window.viewer.layers[0], window.model.tiles
    second = window.viewer.add_image(first.data.copy(), name="second", translate=(0, 200))
    window.choose(second)
    window.encode()
    assert f"belongs to {first.name}" in window.told[-1]
    window.panel.commit()
    window.encode()
    assert window.panel.clicks.source.image is second and window.model.tiles == tiles
    window.click_and_wait(second.data_to_world(centres[1]))
    assert area(window.panel.labels.layer.data) == 400
    assert area(window.viewer.layers[LABELS].data) == 400


def test_an_image_that_is_gone_back_to_is_encoded_still_and_its_objects_clicks_are_known(field):
    window, centres = field
    first = window.viewer.layers[0]
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    second = window.viewer.add_image(first.data[::-1].copy(), name="second")
    window.choose(second)
    window.encode()
    tiles, features = window.model.tiles, window.panel.features
    for image in (first, second, first):
        window.choose(image)
        window.encode()
        assert window.form.bar.text() == "encoded"
    assert window.model.tiles == tiles and window.panel.clicks.source.image is first and not window.told
    assert window.panel.annotator.session.objects == {1: (Click.at(centres[0]),)}
    window.click_and_wait(centres[1])
    assert (area(window.labels, 1), area(window.labels, 2)) == (400, 400)
    window.key_and_wait("C")
    gone = weakref.ref(features)
    del features
    window.viewer.layers.remove(second)
    window.wait(lambda: gc.collect() is not None and gone() is None)
    first.data = np.roll(first.data, 5)
    assert not window.panel._cache.features


def test_another_image_waits_until_the_labels_were_looked_through_and_the_window_does_not(field, monkeypatch):
    window, centres = field
    first = window.viewer.layers[0]
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    gate, survey = threading.Event(), LayerLabels.survey
    monkeypatch.setattr(LayerLabels, "survey", lambda *args: (gate.wait(30), survey(*args))[1])
    other = window.viewer.add_labels(np.zeros(first.data.shape, np.int32))
    window.form.labels.choose(other)
    window.form.labels.activated.emit(window.form.labels.currentIndex())
    second = window.viewer.add_image(first.data[::-1].copy(), name="second")
    window.choose(second)
    window.encode(wait=False)
    window.rest(0.2)
    assert window.panel.clicks.source.image is first and window.panel.job is not None
    window.form.cancel.click()
    window.wait(lambda: window.panel.job is None)
    assert window.panel.clicks.source.image is first
    window.encode(wait=False)
    window.rest(0.2)
    gate.set()
    window.wait(lambda: window.panel.job is None)
    window.idle()
    assert window.panel.clicks.source.image is second and not window.told


def test_another_image_waits_for_a_commit_in_line(field):
    window, centres = field
    window.click_and_wait(centres[0])
    second = window.viewer.add_image(window.viewer.layers[0].data[::-1].copy(), name="second")
    window.choose(second)
    window.panel.activate()
    window.model.gate.clear()
    window.click(centres[1])
    window.wait(lambda: window.panel.annotator.busy)
    window.key("C")
    first = window.labels
    window.encode(wait=False)
    window.rest(0.3)
    window.model.gate.set()
    window.wait(lambda: window.panel.job is None)
    window.idle()
    assert area(first) == 800 and window.panel.clicks.source.image is second and not window.told


def test_another_image_waits_for_the_click_that_is_being_answered(field):
    window, centres = field
    first = window.viewer.layers[0]
    second = window.viewer.add_image(first.data[::-1].copy(), name="second")
    window.choose(second)
    window.viewer.layers.selection.active = window.points
    window.model.gate.clear()
    window.click(centres[0])
    window.wait(lambda: window.panel.annotator.busy)
    window.encode(wait=False)
    window.rest(0.3)
    assert window.panel.job is not None and not window.told
    window.model.gate.set()
    window.wait(lambda: window.panel.job is None)
    assert "Object 1 is not committed, and belongs to " + first.name in window.told[-1]
    window.idle()
    assert window.panel.clicks.source.image is first and area(window.labels) == 400
    assert len(window.points.data) == 1
    window.key_and_wait("C")
    window.encode()
    assert window.panel.clicks.source.image is second and area(window.labels) == 400


def test_choosing_another_image_says_where_clicks_go(window):
    image, _ = squares()
    first = window.open(np.stack([image] * 3), name="first")
    assert window.form.bar.text() == "3 of 3 planes" and window.form.planes.isVisible()
    window.choose(window.viewer.add_image(image, name="second"))
    assert not window.form.bar.text() and not window.form.planes.isVisible()
    assert "Clicks go to first" in window.form.object.text()
    window.choose(first)
    assert window.form.bar.text() == "3 of 3 planes" and window.form.planes.isVisible()
    assert "Clicks go" not in window.form.object.text()


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
    window.viewer.dims.ndisplay = 2
    window.viewer.reset_view()
    window.rest()
    window.click_and_wait(centres[0])
    assert area(window.labels) == 400 and "2-D" not in window.form.object.text()


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


def test_other_pixels_in_the_image_are_told_and_encoded_anew(field):
    window, centres = field
    image = window.viewer.layers[0]
    window.click_and_wait(centres[0])
    image.data = np.roll(image.data, 5)
    assert "The pixels of " in window.told[-1] and not window.form.bar.text()
    assert "press Encode" in window.form.object.text() and area(window.labels) == 400
    window.key_and_wait("C")
    tiles = window.model.tiles
    window.encode()
    assert window.model.tiles > tiles and window.form.bar.text() == "encoded"
    assert "press Encode" not in window.form.object.text() and len(window.told) == 1
    image.data, image.scale = np.stack([image.data] * 2), (3, 1, 1)
    window.form.labels.choose(None)
    window.encode()
    assert window.points.ndim == 3 and window.points.scale[0] == 3 and len(window.told) == 2


def test_other_data_in_the_labels_keeps_the_object_that_is_worked_on(field):
    window, centres = field
    layer = window.viewer.layers[LABELS]
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    window.click_and_wait(centres[1])
    layer.data = layer.data  # drawn again, no more
    window.idle()
    assert len(window.points.data) == 1 and not window.told
    layer.data = np.where(layer.data == 1, layer.data, 0)
    window.idle()
    assert (area(layer.data, 1), area(layer.data, 2)) == (400, 400) and len(window.points.data) == 1
    window.key_and_wait("Ctrl+Z")
    assert (area(layer.data, 1), area(layer.data, 2)) == (400, 0)
    window.key_and_wait("Ctrl+Shift+Z")
    layer.data = layer.data.copy()
    window.idle()
    assert "its clicks are gone" in window.told[-1] and area(layer.data, 2) == 400


def test_the_strip_follows_what_napari_takes_back(window, monkeypatch):
    image, _ = squares()
    window.open(np.stack([image] * 3))
    window.viewer.dims.set_current_step(0, 1)
    layer, strip = window.viewer.layers[LABELS], window.form.planes
    save = layer._save_history  # tells of the stroke, before there are its pixels
    monkeypatch.setattr(layer, "_save_history", lambda change: (save(change), time.sleep(0.2)))
    layer.paint((1, 60, 60), 5)
    window.wait(lambda: strip.state.annotated.tolist() == [False, True, False])
    layer.undo()
    window.wait(lambda: not strip.state.annotated.any())
    layer.n_edit_dimensions, layer.brush_size = 3, 3
    layer.paint((1, 60, 60), 5)  # as a ball
    window.wait(lambda: strip.state.annotated.all())


@pytest.mark.parametrize("how", ["undo", "clear", "commit"])
def test_labels_that_are_hidden_are_written_on_a_plane_that_they_were_never_drawn_on(window, how):
    image, centres = squares()
    window.open(np.stack([image] * 5))
    layer = window.viewer.layers[LABELS]
    window.viewer.dims.set_current_step(0, 1)
    window.rest()
    layer.visible = False
    window.viewer.dims.set_current_step(0, 3)
    window.rest()
    window.click_and_wait(centres[1])
    assert area(layer.data[3]) == 400
    getattr(window.panel, how)()
    window.idle()
    layer.visible = True
    window.rest()
    np.testing.assert_array_equal(layer._slice.image.raw, layer.data[3])
    assert area(layer.data) == (400 if how == "commit" else 0)
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    assert np.unique(layer.data, return_counts=True)[1][1:].tolist() == [400] * (2 if how == "commit" else 1)
    assert not window.told


def test_an_opened_label_file_follows_an_image_that_gets_its_pixel_size(window):
    image, centres = squares()
    layer = window.viewer.add_image(image)
    opened = window.viewer.add_labels(np.zeros(image.shape, int), name="opened")
    window.form.labels.choose(opened)
    window.encode()
    layer.scale, layer.units = (0.5, 0.5), "um"
    window.viewer.reset_view()
    window.rest()
    world = layer.data_to_world(centres[1])
    window.click_and_wait(world)
    assert opened.get_value(world, world=True) == 1
    assert window.panel.labels.pixel_size == ([0.5, 0.5], "micrometer")


def test_a_plane_that_was_replaced_is_encoded_anew_though_the_sample_is_the_same(window):
    image, centres = squares()
    stack = np.stack([image] * 40)
    stack[1] = 0
    layer = window.viewer.add_image(stack, contrast_limits=(0, 255))
    window.viewer.dims.set_current_step(0, 1)
    window.encode()
    mended = stack.copy()
    mended[1] = image
    layer.data = mended
    window.encode()
    window.click_and_wait(centres[0])
    assert area(window.labels[1]) == 400


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


def test_a_click_that_waits_is_kept_though_another_image_is_refused(window, monkeypatch):
    image, centres = squares()
    begin_and_stop(window, image)
    window.choose(window.viewer.add_image(np.stack([image // 2] * 4), name="second"))
    prepared, features_for = threading.Event(), widget.features_for
    monkeypatch.setattr(widget, "features_for", lambda *a: prepared.wait(PATIENCE) and features_for(*a))
    window.form.encode.click()
    window.rest()
    window.viewer.layers.selection.active = window.points
    window.points.mode = "add"
    window.viewer.dims.set_current_step(0, 3)
    window.rest()
    window.click(centres[0])
    window.wait(lambda: window.panel.annotator.waiting)
    prepared.set()
    window.wait(lambda: area(window.labels[3]) == 400)
    assert "belongs to" in window.told[-1] and len(window.points.data) == 1


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
    window.key_and_wait("Ctrl+Z")  # no click is left, and napari's own would paint what was taken back
    assert area(layer.data, 2) == 0 and area(layer.data, 1) == 400
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


def test_an_image_that_got_another_shape_is_encoded_anew_with_labels_of_that_shape(field):
    window, _ = field
    image, centres = squares((64, 200))
    window.viewer.layers[0].data = image
    window.form.labels.choose(None)
    window.form.labels.activated.emit(window.form.labels.currentIndex())
    window.idle()
    assert len(window.told) == 1  # that there is other data
    window.encode()
    window.click_and_wait(centres[0])
    assert window.viewer.layers[-2].data.shape == (64, 200) and area(window.viewer.layers[-2].data) == 400
    assert len(window.told) == 1


@pytest.fixture
def while_preparing(monkeypatch):
    """Return a list of what the window's thread is to do once, after the model is loaded and before clicks can begin."""
    from napari_interformer import widget

    todo, ready, prepare = [], threading.Event(), widget.features_for

    def held(*args):
        made = prepare(*args)
        if todo:
            assert ready.wait(60)
        return made

    monkeypatch.setattr(widget, "features_for", held)

    def during(window, act):
        todo.append(act)
        ready.clear()
        window.form.encode.click()
        window.rest()
        act()
        window.rest()
        ready.set()
        window.wait(lambda: window.panel.job is None)
        todo.clear()
        window.rest()

    return during


def test_an_image_that_is_removed_while_its_encode_is_prepared_gets_no_layers(window, while_preparing):
    image, _ = squares()
    window.viewer.add_image(image)
    while_preparing(window, lambda: window.viewer.layers.clear())
    assert not list(window.viewer.layers) and window.panel.annotator is None


def test_another_image_that_is_removed_does_not_stop_an_encode(field, while_preparing):
    window, _ = field
    image, centres = squares((64, 200))
    first, layer = window.viewer.layers[0], window.viewer.add_image(image, name="next")
    window.form.image.choose(layer)
    window.form.image.activated.emit(window.form.image.currentIndex())
    while_preparing(window, lambda: window.viewer.layers.remove(first))
    assert window.form.bar.text() == "encoded"
    window.click_and_wait(centres[0])
    assert area(window.viewer.layers["InterFormer labels [1]"].data) == 400


def test_pixels_replaced_while_an_encode_is_prepared_are_told(window, while_preparing):
    image, _ = squares()
    layer = window.viewer.add_image(image)
    while_preparing(window, lambda: setattr(layer, "data", np.roll(image, 5)))
    assert "The pixels of " in window.told[-1] and window.form.bar.text() != "encoded"


def test_that_the_click_layer_is_gone_is_told_once(field):
    window, _ = field
    other = window.viewer.add_image(np.zeros((8, 8)), name="other")
    window.viewer.layers.remove(CLICKS)
    window.rest()
    window.viewer.layers.remove(other)
    window.rest()
    assert [told for told in window.told if "click layer" in told] == window.told and len(window.told) == 1


def test_saved_ome_zarr_is_opened_and_gone_on_with_in_a_copy(field, tmp_path, monkeypatch):
    from qtpy.QtWidgets import QFileDialog

    window, centres = field
    path, layers = tmp_path / "labels.zarr", window.viewer.layers
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(path), ""))
    window.form.save_labels.click()
    window.idle()
    layers.remove(LABELS)
    window.rest()
    (opened,) = window.viewer.open(path, layer_type="labels", plugin="napari")
    window.form.labels.choose(opened)
    window.encode()
    window.idle()
    copy = window.panel.labels.layer
    assert copy.name == "labels copy" and not opened.visible and window.form.labels.layer() is copy
    assert "labels cannot be written to: its objects were copied to labels copy" in window.told[-1]
    assert layers.index(copy) < layers.index(CLICKS)
    window.click_and_wait(centres[1])
    window.key_and_wait("C")
    assert (area(copy.data, 1), area(copy.data, 2)) == (400, 400) and area(np.asarray(opened.data), 2) == 0
    window.form.save_labels.click()
    window.idle()
    assert "saved" in window.told[-1] and area(np.asarray(opened.data), 2) == 400


def test_labels_in_a_zarr_that_is_read_only_are_gone_on_with_in_a_copy(window, tmp_path):
    zarr = pytest.importorskip("zarr")
    image, centres = squares()
    zarr.save_array(tmp_path / "labels.zarr", np.zeros(image.shape, np.int32))
    window.viewer.add_image(image)
    layer = window.viewer.add_labels(zarr.open_array(tmp_path / "labels.zarr", mode="r"), name="mine")
    window.form.labels.choose(layer)
    window.encode()
    window.click_and_wait(centres[0])
    assert area(window.viewer.layers["mine copy"].data) == 400


def test_labels_are_looked_through_beside_the_window_and_clicks_wait_for_that(window, monkeypatch):
    image, centres = squares()
    (y, x), there = centres[1], np.zeros((3, *image.shape), np.int32)
    there[2, y - 10 : y + 10, x - 10 : x + 10] = 7
    window.viewer.add_image(np.stack([image] * 3))
    window.form.labels.choose(window.viewer.add_labels(there, name="mine"))
    window.viewer.dims.set_current_step(0, 2)
    looked, goes_on, read = set(), threading.Event(), LayerLabels.__getitem__

    def whole_planes(labels, key):
        if not any(isinstance(part, slice) for part in key):
            looked.add(threading.get_ident())
            assert goes_on.wait(PATIENCE)
        return read(labels, key)

    monkeypatch.setattr(LayerLabels, "__getitem__", whole_planes)
    window.encode(wait=False)
    window.wait(lambda: window.panel.annotator is not None and looked)
    window.click(centres[0])
    window.rest()
    assert not window.panel.annotator.session.clicks
    goes_on.set()
    window.idle()
    assert there[2][centres[0]] == 8 and len(window.points.data) == 1
    window.key_and_wait("C")
    window.key("E")
    window.click_and_wait((y, x))
    assert window.panel.annotator.session.label == 7 and not window.told
    assert threading.get_ident() not in looked


def test_labels_that_cannot_be_read_are_told_and_nothing_is_begun(window):
    image, _ = squares()

    def plane(block_id):
        if block_id[0] == 2:
            raise OSError("The share is gone.")
        return np.zeros((1, *image.shape), np.int32)

    stack = window.viewer.add_image(np.stack([image] * 3))
    lazy = da.map_blocks(
        plane, chunks=((1, 1, 1), *((n,) for n in image.shape)), dtype=np.int32, meta=plane([0])
    )
    layer = window.viewer.add_labels(lazy, name="mine")
    window.viewer.dims.set_current_step(0, 0)
    window.form.labels.choose(layer)
    window.encode()
    window.idle()
    assert window.told == ["The share is gone."] and window.panel.annotator is None
    assert layer.visible and [one.name for one in window.viewer.layers] == [stack.name, "mine", CLICKS]


def test_labels_that_were_added_hidden_are_shown_and_written_to(window):
    image, centres = squares()
    window.viewer.add_image(image)
    layer = window.viewer.add_labels(np.zeros(image.shape, np.int32), name="mine", visible=False)
    window.form.labels.choose(layer)
    window.encode()
    window.click_and_wait(centres[0])
    assert layer.visible and area(layer.data) == 400 and "mine was hidden" in window.told[0]


@pytest.mark.parametrize("sample", [cells_sample, nuclei_sample])
def test_samples_can_be_shown(window, sample):
    for data, kwargs, kind in sample():
        getattr(window.viewer, f"add_{kind}")(data, **kwargs)
    image, truth = window.viewer.layers
    assert image.visible and not truth.visible
