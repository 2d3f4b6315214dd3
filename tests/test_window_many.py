"""Many objects at once: find similar, propagate, delete."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from napari_interformer.decoding import ANSWERS
from napari_interformer.geometry import Box
from napari_interformer.hints import found
from napari_interformer.labels import LABELS, LayerLabels
from panel import THEIRS, area
from window import PATIENCE, PLENTY, squares

pytest_plugins = ("panel",)
pytestmark = THEIRS


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


@pytest.mark.parametrize("button", ["Left", "Right"])
def test_a_drag_moves_the_camera_and_the_next_click_still_chooses(field, button):
    window, centres = field
    for centre in centres[:2]:
        window.click_and_wait(centre)
        window.key_and_wait("C")
    camera = window.panel.screen.camera
    before = (*camera.center, camera.zoom)
    window.key("X")
    window.drag(centres[0], (centres[0][0] + 10, centres[0][1] + 20), button)
    window.idle()
    assert (*camera.center, camera.zoom) != before
    assert window.form.delete.isChecked() and {1, 2} <= set(np.unique(window.labels))
    window.click_and_wait(centres[1])
    window.idle()
    assert not window.form.delete.isChecked() and window.labels.max() == 1


@pytest.mark.parametrize("tool", ["2", "M"])
def test_another_tool_chooses_no_object(field, tool):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    for key, button in (("X", window.form.delete), ("E", window.form.edit)):
        window.key(key)
        assert button.isChecked()
        window.key_and_wait(tool)
        assert not button.isChecked() and window.points.mode == "add"
        window.click_and_wait(centres[1])
        assert len(window.points.data) == 1 and area(window.labels, 1) == 400
        window.key_and_wait("Shift+C")


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
    decode, steps, before = window.model.decode_logits, threading.Semaphore(2 * ANSWERS), window.model.decoded

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
    assert window.model.decoded - before < 5 * ANSWERS
    assert window.form.object.text().startswith("Press Encode") and not window.form.stop.isVisible()


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


def test_finding_that_is_stopped_before_anything_is_found_says_so(field):
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    gate = threading.Event()
    window.panel.decoder.run(lambda: gate.wait(PATIENCE), lambda _: None, lambda _: None)
    window.key("G")
    window.panel.stop()
    gate.set()
    window.idle()
    assert window.told[-1] == "Stopped before any similar object was found." == found(0, stopped=True)
    assert found(1, stopped=True) == found(1)
    window.key_and_wait("G")
    assert "similar objects were found" in window.told[-1]
