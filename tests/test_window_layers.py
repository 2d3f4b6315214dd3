"""The Labels layer: made, chosen, saved, restored."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from importlib.metadata import version

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from napari.layers import Labels
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QFileDialog

from napari_interformer.clicks import CLICKS
from napari_interformer.drawings import SHAPES
from napari_interformer.image_files import read_image
from napari_interformer.labels import LABELS, LayerLabels
from napari_interformer.records import Saved
from napari_interformer.samples import cells_sample, nuclei_sample
from napari_interformer.session import Session
from panel import THEIRS, after_a_crash, area, finish_and_hold
from window import PATIENCE, PLENTY, squares

pytest_plugins = ("panel",)
pytestmark = THEIRS


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
    window.open_panel()
    window.encode()
    window.click_and_wait(centres[1])
    assert (area(labels.data, 1), area(labels.data, 2)) == (400, 400)
    assert [layer.name for layer in window.viewer.layers][1:] == [LABELS, CLICKS]
    window.key_and_wait("C")
    assert window.panel.annotator.session.objects.keys() == {1, 2}, "what was clicked before is saved, too"


def test_a_number_that_was_undone_while_the_panel_was_closed_is_not_given_again(field):
    window, centres = field
    for centre in centres[:2]:
        window.click_and_wait(centre)
        window.key_and_wait("C")
    labels = window.viewer.layers[LABELS]
    window.viewer.window.remove_dock_widget(window.panel)
    labels.data[labels.data == 2] = 0
    window.open_panel()
    window.encode()
    window.click_and_wait(centres[2])
    window.key_and_wait("C")
    numbers = [record.label for record in window.panel.annotator.session.records]
    assert sorted(set(numbers)) == sorted(numbers) and not (labels.data == 2).any()


def test_labels_that_somebody_placed_are_gone_on_with_when_their_image_is(window):
    image, centres = squares()
    first = window.viewer.add_image(image, name="first", scale=(0.5, 0.5))
    window.viewer.add_image(image.T.copy(), name="second", scale=(0.5, 0.5))
    mine = window.viewer.add_labels(np.zeros(image.shape, np.int32), name="mine", scale=(0.5, 0.5))
    window.choose(first)
    window.form.labels.choose(mine)
    window.encode()
    window.click_and_wait(np.multiply(centres[0], 0.5))
    window.key_and_wait("C")
    window.choose(window.viewer.layers["second"])
    assert window.form.labels.layer() is None
    window.encode()
    window.choose(first)
    assert window.form.labels.layer() is mine
    window.encode()
    window.click_and_wait(np.multiply(centres[1], 0.5))
    window.viewer.window.remove_dock_widget(window.panel)
    window.open_panel()
    window.choose(first)
    assert window.form.labels.layer() is mine
    window.encode()
    window.idle()
    assert window.panel.annotator.session.label == 2 and len(window.points.data) == 1, "it goes on, too"
    window.key_and_wait("C")
    assert (area(mine.data, 1), area(mine.data, 2)) == (400, 400)


def test_labels_that_no_file_can_hold_are_told_at_once(window, monkeypatch, tmp_path):
    from qtpy.QtWidgets import QFileDialog

    image, centres = squares()
    window.viewer.add_image(image)
    ignored = np.zeros(image.shape, np.int16)
    ignored[0, 0] = -3
    window.form.labels.choose(window.viewer.add_labels(ignored, name="mine"))
    window.encode()
    window.idle()
    assert "mine: A label image can hold labels from 0 to 2**32 - 1; got -3 to 0" in window.told[-1]
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "l.tif"), ""))
    window.form.save_labels.click()
    window.idle()
    assert "got -3 to 1: set pixels below 0 to 0" in window.told[-1] and not (tmp_path / "l.tif").exists()


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
    window.open_panel()
    window.encode()
    window.wait(lambda: window.panel.annotator.session.clicks)
    window.idle()
    assert [layer.name for layer in window.viewer.layers][1:] == [LABELS, CLICKS]
    assert window.panel.annotator.session.label == 1 and len(window.points.data) == 1
    window.key_and_wait("Shift+C")
    assert not labels.data.any(), "it was never committed"
    window.key_and_wait("Ctrl+Z")
    assert not labels.data.any() and not window.panel.annotator.session.unfinished
    window.click_and_wait(centres[0])
    window.click_and_wait(centres[1])
    window.key_and_wait("C")
    assert (area(labels.data, 2), len(window.points.data)) == (800, 0) and area(labels.data, 1) == 0


def test_an_object_that_was_left_unfinished_and_is_gone_begins_anew_from_its_clicks(field):
    window, centres = field
    window.click_and_wait(centres[0])
    labels = window.viewer.layers[LABELS]
    window.viewer.window.remove_dock_widget(window.panel)
    labels.data[:] = 0
    window.open_panel()
    window.encode()
    window.idle()
    assert window.told == [
        "Object 1 was left unfinished when the panel was closed, and InterFormer labels has no pixel of it any more: "
        "clicks that are left of it begin a new object; to drop them, press Clear [Shift+C]."
    ]
    assert len(window.points.data) == 1 and area(labels.data) == 400


def test_an_object_that_was_left_unfinished_is_saved_as_a_new_one(field, tmp_path):
    window, centres = field
    window.click_and_wait(centres[0])
    labels = window.viewer.layers[LABELS]
    window.viewer.window.remove_dock_widget(window.panel)
    window.open_panel()
    window.encode()
    window.click_and_wait(centres[1])
    window.key_and_wait("C")
    session = window.panel.annotator.session
    again = Session(session.features, window.model)
    again.load_prompts(session.save_prompts(tmp_path / "clicks.json"))
    np.testing.assert_array_equal(again.labels, labels.data)
    assert area(labels.data, 1) == 800


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


def test_buttons_stay_under_the_mouse_whatever_is_told_above_them(field):
    window, centres = field
    form, places = window.form, set()

    def look():
        window.rest()
        places.add(form.edit.mapTo(window.panel, window.QPoint()).y())

    look()
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    window.click_and_wait(centres[0])
    assert "object 1 is already here: press Edit object and click on it to correct it" in form.object.text()
    look()
    form.edit.click()
    look()
    assert len(places) == 1


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
    window.viewer.layers["image"].scale = (-1, 1)  # a mirrored layer has pixels like any other
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
    assert window.told[1:] == [f"The clicks were saved as clicks.json in {tmp_path.name}."]
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


def test_what_was_painted_before_a_crash_is_restored(field, monkeypatch):
    window, centres = field
    window.click_and_wait(centres[0])
    layer = window.viewer.layers[LABELS]
    rows, columns = np.mgrid[50:55, 60:66].reshape(2, -1)
    layer.data_setitem((rows, columns), 1)
    layer.data_setitem(tuple(np.int64(centre) + np.arange(3) for centre in centres[0]), 0)
    window.key_and_wait("C")
    layer.data_setitem((rows + 20, columns), 5)
    window.idle()
    window.panel.notes.timer.timeout.emit()
    before = window.labels.copy()
    after_a_crash(window, monkeypatch)
    window.wait(window.form.restore.isVisible)
    assert window.form.restore.text().startswith("Restore 2 objects of ")
    window.form.restore.click()
    window.idle()
    np.testing.assert_array_equal(window.labels, before)
    assert area(window.labels, 1) == 427 and window.panel.annotator.session.label == 6


def test_labels_of_another_shape_after_a_stroke_end_the_session_and_its_journal_stays(field):
    window, centres = field
    window.click_and_wait(centres[0])
    layer = window.viewer.layers[LABELS]
    layer.data_setitem(tuple(np.mgrid[50:55, 60:66].reshape(2, -1)), 1)
    window.key_and_wait("C")
    path = window.panel.notes.journal.path
    layer.data = np.zeros((40, 40), np.int32)
    window.idle()
    assert "Labels must have the image's shape" in window.told[-1]
    window.wait(path.exists)
    assert Saved.read(path).by_hand[0].numbers == (1, 30)


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
    assert "clear it first [Shift+C]" in window.told[-1] and window.form.restore.isVisible()
    window.key_and_wait("C")
    window.panel.notes.timer.timeout.emit()
    assert not window.form.restore.isVisible()


def test_what_is_being_restored_is_not_asked_for_twice(field, monkeypatch):
    window, centres = field
    window.click_and_wait(centres[0])
    after_a_crash(window, monkeypatch)
    window.wait(window.form.restore.isVisible)
    window.panel.notes.restore()
    assert not window.form.restore.isVisible()
    window.panel.notes.restore()  # as from a script, or by a click that was on its way
    window.idle()
    assert area(window.labels, 1) == 400 and not any("clear it first" in told for told in window.told)


def test_an_offer_stays_while_what_was_there_before_is_corrected_or_deleted(field, monkeypatch):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    saved = window.viewer.layers[LABELS].data.copy()
    window.click_and_wait(centres[1])
    window.key_and_wait("C")
    after_a_crash(window, monkeypatch, labels=saved)
    window.wait(window.form.restore.isVisible)
    window.key("X")
    window.click_and_wait(centres[0])
    window.panel.notes.timer.timeout.emit()
    assert window.form.restore.isVisible() and not area(window.panel.labels.layer.data, 1)
    window.form.restore.click()
    window.idle()
    assert area(window.panel.labels.layer.data, 2) == 400


def test_a_new_layer_that_finds_no_memory_leaves_the_choice(field, monkeypatch):
    from napari_interformer import widget

    def no_room(*_):
        raise MemoryError("no room")

    window, _ = field
    before = window.panel.labels.layer
    monkeypatch.setattr(widget, "new_labels", no_room)
    window.form.labels.choose(None)
    window.form.labels.activated.emit(window.form.labels.currentIndex())
    window.idle()
    assert "No room" in window.told[-1] and window.form.labels.layer() is before


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


def test_other_data_in_the_labels_keeps_what_is_known_of_the_objects_that_it_holds(field):
    window, centres = field
    layer = window.viewer.layers[LABELS]
    for centre in centres[:3]:
        window.click_and_wait(centre)
        window.key_and_wait("C")
    layer.data_setitem((np.array([1]), np.array([1])), 7)
    window.idle()
    layer.data = np.where(layer.data == 2, 0, layer.data)
    window.idle()
    session = window.panel.annotator.session
    assert session.objects.keys() == {1, 3} and session.label == 8
    assert {number for piece in session.saved.by_hand for number in piece.objects} == {7}
    window.click_and_wait(centres[1])
    window.key_and_wait("C")
    assert session.objects.keys() == {1, 3, 8}


def test_what_napari_took_back_is_not_brought_back_by_the_clicks(field, tmp_path):
    window, centres = field
    layer = window.viewer.layers[LABELS]
    for centre in centres[:3]:
        window.click_and_wait(centre)
        window.key_and_wait("C")
    window.viewer.layers.selection.active = layer
    for _ in range(2):
        window.key_and_wait("Ctrl+Z")
    window.key_and_wait("Ctrl+Shift+Z")
    assert set(np.unique(layer.data)) == {0, 1, 2}
    session = window.panel.annotator.session
    again = Session(session.features, window.model)
    again.load_prompts(session.save_prompts(tmp_path / "clicks.json"))
    np.testing.assert_array_equal(again.labels, layer.data)


def test_napari_s_undo_goes_on_behind_a_click_that_was_taken_back(field):
    window, centres = field
    layer = window.viewer.layers[LABELS]
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    window.click_and_wait(centres[1])
    window.viewer.layers.selection.active = layer
    window.key_and_wait("Ctrl+Z")
    assert set(np.unique(layer.data)) == {0, 1}
    window.key_and_wait("Ctrl+Z")
    assert not layer.data.any()
    window.key_and_wait("Ctrl+Shift+Z")
    assert set(np.unique(layer.data)) == {0, 1} and not window.panel.annotator.session.unfinished


@pytest.mark.parametrize(
    "length", [40, 140]
)  # napari keeps a hundred steps, and a stroke has an edit for each pixel
def test_napari_s_undo_goes_on_behind_a_stroke_that_was_taken_back(field, length):
    window, centres = field
    layer = window.viewer.layers[LABELS]
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    first = layer.data.copy()
    window.click_and_wait(centres[1])
    clicked = layer.data.copy()
    window.viewer.layers.selection.active = layer
    layer.mode, layer.brush_size = "paint", 4
    window.drag((90, 10), (90, 10 + length))
    window.idle()
    stroked = layer.data.copy()
    assert (stroked != clicked).any()
    seen = []
    for keys in [*["Ctrl+Z"] * 3, *["Ctrl+Shift+Z"] * 2, *["Ctrl+Z"] * 3]:
        window.key_and_wait(keys)
        seen.append(layer.data.copy())
    nothing = np.zeros_like(first)
    for got, expected in zip(
        seen, [clicked, first, nothing, first, first, nothing, nothing, nothing], strict=True
    ):
        np.testing.assert_array_equal(got, expected)
    assert len(layer._undo_history) < 3


def test_a_stroke_without_an_object_is_taken_back_for_good(field):
    window, centres = field
    layer = window.viewer.layers[LABELS]
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    first = layer.data.copy()
    window.viewer.layers.selection.active = layer
    layer.mode, layer.brush_size = "paint", 4
    y, x = centres[1]
    window.drag((y - 20, x - 20), (y - 20, x + 20))
    window.idle()
    stroked, nothing = layer.data.copy(), np.zeros_like(first)
    assert (stroked != first).any()
    seen = []
    for keys in ["Ctrl+Z", "Ctrl+Shift+Z", "Ctrl+Z", "Ctrl+Z", "Ctrl+Shift+Z"]:
        window.key_and_wait(keys)
        seen.append(layer.data.copy())
    for i, (got, expected) in enumerate(zip(seen, [first, stroked, first, nothing, first], strict=True)):
        np.testing.assert_array_equal(got, expected, str(i))


def test_the_layer_whose_pixels_changed_is_named(window):
    image, _ = squares()
    red, green = (window.viewer.add_image(image, name=name) for name in ("red one", "green one"))
    window.choose(red)
    window.form.green.choose(green)
    window.encode()
    green.data = image[::-1].copy()
    assert "The pixels of green one changed" in window.told[-1]
    assert window.form.object.text().startswith("The pixels changed since red one was encoded")


@pytest.mark.skipif(
    tuple(map(int, version("napari").split(".")[:2])) < (0, 9), reason="napari shows units from 0.9 on"
)
def test_layers_in_different_units_are_told(field):
    window, _ = field
    window.viewer.layers[0].units = "um"
    window.rest()
    assert "units" not in window.form.object.text()
    other = window.viewer.add_image(np.zeros((9, 9), np.uint8), units="nm")
    window.viewer.layers.selection.active = window.points
    window.rest()
    assert "The layers have different units" in window.form.object.text()
    other.units = "um"
    window.viewer.layers.selection.active = other
    window.viewer.layers.selection.active = window.points
    window.rest()
    assert "units" not in window.form.object.text()


def test_a_name_that_looks_like_a_tag_is_a_name(field):
    window, _ = field
    window.viewer.layers[0].name = "C<b>x</b>"
    window.points.mode = "pan_zoom"
    window.viewer.layers[LABELS].visible = False
    window.rest()
    assert window.form.object.textFormat() == window.Qt.TextFormat.PlainText


def test_layers_that_are_gone_are_let_go_of(field):
    window, centres = field
    for _ in range(2):
        window.key("B")
        window.drag(*[(y + d, x + d) for (y, x), d in ((centres[0], -11), (centres[0], 11))])
        window.idle()
        shapes = window.panel.clicks.shapes.layer
        window.viewer.layers.remove(shapes)
        window.viewer.layers.remove(window.points)
        del shapes
        window.rest()
        window.encode()
        window.idle()
    followed = {id(emitter.source) for emitter, _ in window.panel.workspace._followed}
    assert followed <= {id(layer) for layer in window.viewer.layers}
    assert {id(layer) for layer, _, _ in window.panel.workspace._keys._bound} <= {
        id(layer) for layer in window.viewer.layers
    }


def test_data_of_another_shape_in_the_labels_ends_the_session_with_a_sentence(field):
    window, centres = field
    layer = window.viewer.layers[LABELS]
    window.click_and_wait(centres[0])
    layer.data = np.zeros((50, layer.data.shape[1]), np.int32)
    window.idle()
    assert "labels must have the image's shape" in window.told[-1].replace("Labels", "labels")
    assert window.panel.annotator is None


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
        if len(key) < 3:  # and no box
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


def test_labels_that_were_not_copied_yet_when_the_panel_was_closed_are_copied_by_the_next_one(window):
    image, _ = squares()
    there = np.zeros(image.shape, np.int32)
    there[2:6, 2:6] = 5
    lazy = window.viewer.add_labels(da.from_array(there), name="lazy")
    shown, goes_on = window.viewer.add_image(image), threading.Event()
    window.choose(shown)
    window.form.labels.choose(lazy)
    window.panel.decoder.run(lambda: goes_on.wait(PATIENCE), lambda _: None, print)
    window.encode()
    window.rest()
    window.viewer.window.remove_dock_widget("all")
    goes_on.set()
    window.rest()
    assert [layer.name for layer in window.viewer.layers if "copy" in layer.name] == []
    window.open_panel()
    window.choose(shown)
    window.encode()
    window.idle()
    assert area(window.panel.labels[...], 5) == 16 and window.panel.annotator.session.label == 6


def test_labels_know_the_objects_of_each_image_that_they_were_used_for(window):
    image, centres = squares()
    shown = window.open(image)
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    layer = window.viewer.layers[LABELS]
    for pixels in (image[::-1] // 2 + 30, image):
        shown.data = pixels
        window.encode()
        window.idle()
    assert window.panel.labels.layer is layer and [*window.panel.annotator.session.objects] == [1]


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


def test_a_label_that_a_script_wrote_into_the_array_keeps_its_number(field):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    window.labels[60:70, 60:70] = 2
    window.viewer.layers[LABELS].refresh()
    window.rest()
    window.idle()
    window.click_and_wait(centres[1])
    window.key_and_wait("C")
    assert [area(window.labels, label) for label in (1, 2, 3)] == [400, 100, 400]


def test_objects_whose_labels_go_while_the_panel_is_closed_are_offered_again(field):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    window.panel.notes.timer.timeout.emit()
    window.viewer.window.remove_dock_widget("all")
    window.rest()
    for gone in (False, True):
        if gone:
            window.viewer.layers.remove(LABELS)
        _, window.panel = window.viewer.window.add_plugin_dock_widget("napari-interformer")
        window.form = window.panel.form
        window.encode()
        window.idle()
        assert window.form.restore.isVisible() is gone
        if not gone:
            window.viewer.window.remove_dock_widget("all")
            window.rest()
    window.form.restore.click()
    window.idle()
    assert area(window.labels) == 400


def test_labels_are_not_saved_over_the_image(window, tmp_path, monkeypatch):
    path = tmp_path / "cells.tif"
    image, centres = squares()
    tifffile.imwrite(path, image)
    window.viewer.open(str(path), plugin="napari")
    window.encode()
    window.click_and_wait(centres[0])
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, **__: (str(path), ""))
    window.form.save_labels.click()
    window.idle()
    assert "is the image itself" in window.told[-1]
    np.testing.assert_array_equal(tifffile.imread(path), image)
    other = tmp_path / "other.tif"
    tifffile.imwrite(other, image)
    window.viewer.open(str(other), plugin="napari")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, **__: (str(other), ""))
    window.form.save_labels.click()
    window.idle()
    assert "other.tif is the image of the layer other" in window.told[-1]
    np.testing.assert_array_equal(tifffile.imread(other), image)


def test_a_features_path_may_begin_at_home(window, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for typed, meant in (("~/x.zarr", str(tmp_path / "x.zarr")), ("s3://b/~x", "s3://b/~x"), ("  ", None)):
        window.form.store.setText(typed)
        assert window.form.store_path() == meant


@pytest.mark.parametrize("end", ["panel", "image"])
def test_what_was_to_be_saved_is_saved_though_the_panel_or_the_image_goes_first(
    field, tmp_path, monkeypatch, end
):
    window, centres = field
    finish_and_hold(window, *centres[:2])
    for kind, name, button in (
        ("labels", "labels.ome.tif", window.form.save_labels),
        ("clicks", "clicks.json", window.form.save_prompts),
    ):
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, name=name: (str(tmp_path / name), ""))
        button.click()
        assert not (tmp_path / name).exists(), kind
    if end == "panel":
        window.viewer.window.remove_dock_widget("all")
    else:
        window.viewer.layers.remove(window.viewer.layers["image"])
    window.rest()
    window.model.gate.set()
    assert area(tifffile.imread(tmp_path / "labels.ome.tif")) == 400
    assert (tmp_path / "clicks.json").exists()
    assert [told.split(".")[0] for told in window.told[:2]] == [
        "The labels were saved as labels",
        "The clicks were saved as clicks",
    ]
    window.rest()
    assert not window.panel.annotator or not window.panel.annotator.busy


def test_labels_that_are_moved_go_back_or_are_told(field):
    window, _ = field
    layer = window.viewer.layers[LABELS]
    layer.translate = (0, 40)
    window.points.translate = (5, 0)
    window.rest()
    assert not layer.translate.any() and not window.points.translate.any()
    mine = window.viewer.add_labels(np.zeros((96, 160), int), name="mine", scale=(2, 2))
    mine.scale = (1, 1)
    mine.translate = (0.2, 0.2)  # placed by somebody, though hardly elsewhere
    window.form.labels.choose(mine)
    window.form.labels.activated.emit(window.form.labels.currentIndex())
    window.wait(lambda: window.panel.labels.layer is mine)
    window.idle()
    mine.translate = (0, 40)
    window.rest()
    assert "mine no longer lies over image" in window.form.object.text()
    mine.translate = (0, 0)
    window.rest()
    assert "no longer" not in window.form.object.text()
    mine.scale = (2, 2)
    window.rest()
    assert "no longer" in window.form.object.text() and mine.scale.tolist() == [
        2,
        2,
    ]  # somebody's own stay where they are


def test_hidden_labels_are_told(field):
    window, _ = field
    layer = window.viewer.layers[LABELS]
    layer.visible = False
    window.rest()
    assert window.form.object.text().startswith("InterFormer labels is hidden.")
    layer.visible = True
    window.rest()
    assert "hidden" not in window.form.object.text()


def test_another_labels_layer_can_be_chosen_while_the_first_is_looked_through(window, monkeypatch):
    image, centres = squares()
    window.viewer.add_image(image)
    wrong, right = (
        window.viewer.add_labels(np.zeros_like(image, int), name=name) for name in ("wrong", "right")
    )
    free, survey = threading.Event(), LayerLabels.survey
    monkeypatch.setattr(LayerLabels, "survey", lambda self, *a: free.wait(60) and survey(self, *a))
    window.form.labels.choose(wrong)
    window.encode()
    window.form.labels.choose(right)
    window.form.labels.activated.emit(window.form.labels.currentIndex())
    window.rest()
    free.set()
    window.wait(lambda: window.panel.labels.layer is right)
    window.idle()
    assert not window.told
    window.click_and_wait(centres[0])
    assert area(right.data) == 400 and not wrong.data.any()


@pytest.fixture
def nearly_full(window, tmp_path):
    """Return labels on disk with room for one more object, to which clicks on squares go, and the squares' centres."""
    image, centres = squares()
    window.viewer.add_image(image)
    small = zarr.create_array(str(tmp_path / "small.zarr"), shape=image.shape, dtype="uint8", chunks=(32, 32))
    small[0, 0] = 254
    window.form.labels.choose(window.viewer.add_labels(small, name="small"))
    window.encode()
    window.idle()
    return small, centres


def test_labels_on_disk_that_are_nearly_full_are_told(window, nearly_full):
    assert "room for 1 more object: for more, choose another layer" in window.told[-1]


def test_labels_that_are_full_are_told_at_the_next_click(window, nearly_full):
    small, centres = nearly_full
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    window.rest()
    assert area(small[:], 255) == 400 and window.panel.annotator.session.label == 256
    window.click_and_wait(centres[1])
    assert "cannot hold label 256" in window.told[-1] and np.count_nonzero(small[:]) == 401


def test_a_panel_that_was_closed_says_so(field):
    window, _ = field
    window.viewer.window.remove_dock_widget(window.panel)
    window.viewer.window.add_dock_widget(window.panel)
    assert window.form.object.text() == "Press Encode, then click on an object."
    window.form.encode.click()
    assert "This panel was closed" in window.told[-1] and window.panel.job is None


def test_what_was_to_be_saved_is_saved_though_the_window_is_closed_by_its_frame(field, tmp_path, monkeypatch):
    window, centres = field
    finish_and_hold(window, *centres[:2])
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "labels.ome.tif"), ""))
    window.form.save_labels.click()
    window.panel.destroyed.emit()  # all that a panel is told then
    assert area(tifffile.imread(tmp_path / "labels.ome.tif")) == 400
    window.model.gate.set()


def test_loaded_objects_that_find_no_room_are_told(field, tmp_path, monkeypatch):
    from qtpy.QtWidgets import QFileDialog

    window, centres = field
    for centre in centres[:3]:
        window.click_and_wait(centre)
        window.key_and_wait("C")
    path = window.panel.annotator.session.save_prompts(tmp_path / "clicks.json")
    full = np.where(window.labels == 1, 9, 0)
    full = window.viewer.add_labels(full, name="full")
    window.form.labels.choose(full)
    window.form.labels.activated.emit(window.form.labels.currentIndex())
    window.encode()
    window.idle()
    assert window.panel.labels.layer is full
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
    window.form.load_prompts.click()
    window.idle()
    assert "1 of 3 loaded objects have no pixel" in window.told[-1]
