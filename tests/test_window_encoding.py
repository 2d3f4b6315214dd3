"""Encoding from the window, and stores."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from qtpy.QtCore import QTimer

from napari_interformer import checkpoint
from napari_interformer.geometry import Box
from napari_interformer.labels import LABELS
from napari_interformer.store import Store
from panel import THEIRS, area, begin_and_stop, begin_held_up
from window import PATIENCE, PLENTY, BrightModel, squares

pytest_plugins = ("panel",)
pytestmark = THEIRS


def test_cancel_stops_within_a_batch_and_keeps_what_is_done(window):
    image, centres = squares()
    window.viewer.add_image(np.stack([image] * 6))
    window.model.steps = threading.Semaphore(20)  # more than two planes, less than four
    window.encode(wait=False)
    window.wait(lambda: window.panel.features is not None and window.model.tiles == 20)
    tiles = len(window.panel.features.tiles)
    window.form.cancel.click()
    window.model.steps.release(PLENTY)
    window.wait(lambda: window.panel.job is None)
    assert window.model.tiles <= 20 + torch.get_num_threads()
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
    begin_held_up(window, image, plane=3)
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
    window.model.steps.release(torch.get_num_threads())
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
    window.viewer.dims.roll()
    window.rest()
    assert strip.state.current is None, "planes of other axes are on screen"
    window.viewer.dims.order = (0, 1, 2)
    window.rest()
    assert strip.state.current == 3


@pytest.mark.parametrize("count", [2, 90, 1000, 5000])
def test_the_strip_shows_any_number_of_planes(window, count, monkeypatch):
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
    same, asked = StackState((count,), encoded.copy(), ~encoded, encoded & False, count - 1), []
    monkeypatch.setattr(strip, "update", lambda: asked.append(1))
    strip.show_state(same)
    assert not asked, "painted again, though nothing looks different"
    strip.show_state(replace(same, current=0))
    assert asked and strip.state.current == 0


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
    window.viewer.layers[0].contrast_limits = (0, 100)  # with which those that are there are of no use
    window.encode()
    assert "No space left" in window.told[-1]
    assert area(window.labels) == 400 and len(window.points.data) == 1


class Other(BrightModel):
    """One with another encoder."""

    def __init__(self):
        super().__init__()
        self.fingerprint = self.decoder_fingerprint = "other"


def test_an_encode_that_is_cancelled_while_its_model_is_loaded_leaves_everything(window, monkeypatch):
    image, centres = squares()
    window.open(image)
    window.click_and_wait(centres[0])
    gate = threading.Event()
    monkeypatch.setattr(checkpoint, "load_model", lambda *_, **__: gate.wait(PATIENCE) and Other())
    session, features = window.panel.annotator.session, window.panel.features
    window.form.add_model("other.safetensors")
    window.form.encode.click()
    window.rest()
    window.form.cancel.click()
    gate.set()
    window.wait(lambda: window.panel.job is None)
    window.idle()
    assert window.panel.annotator.session is session and window.panel.features is features
    assert area(window.labels) == 400


def test_a_model_that_is_chosen_while_the_first_one_is_loaded_answers(window, monkeypatch):
    image, centres = squares()
    gate, adapted = threading.Event(), BrightModel()
    adapted.decoder_fingerprint = "adapted"

    def load(name, **_):
        assert gate.wait(PATIENCE)
        return adapted if name == "adapted.safetensors" else window.model

    monkeypatch.setattr(checkpoint, "load_model", load)
    window.viewer.add_image(image)
    window.encode(wait=False)
    window.form.add_model("adapted.safetensors")
    window.panel._change_model()
    gate.set()
    window.wait(lambda: window.panel.annotator is not None and window.panel.job is None)
    window.idle()
    window.click_and_wait(centres[0])
    assert window.panel.annotator.session.model is adapted and adapted.decoded == 1


def test_the_focus_does_not_jump_to_a_button_that_nobody_chose(field):
    window, centres = field
    window.click_and_wait(centres[0])
    window.form.undo.setFocus()
    window.QTest.keyClick(window.form.undo, window.Qt.Key.Key_Space)
    window.idle()
    focused = window.form.window().focusWidget()
    assert not window.form.undo.isEnabled() and focused is window.form.setup.header
