"""Adapting a model in the window."""

from __future__ import annotations

import importlib
import os
import threading
from functools import partial

import numpy as np
import pytest

from napari_interformer import adapting, checkpoint
from napari_interformer.checkpoint import load_model, models
from panel import THEIRS, same
from window import PATIENCE, squares

pytest_plugins = ("panel",)
pytestmark = THEIRS


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
            self.window.wait(lambda: self.window.panel._lessons.job is None)
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
    window.wait(lambda: window.panel._lessons.job is None)
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
    window.wait(lambda: window.panel._lessons.job is None)
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
    window.viewer.add_image(school.image.data, name="another")
    window.viewer.layers.remove(school.image)
    window.wait(lambda: window.panel.annotator is None)
    assert not window.form.encode.isEnabled()
    assert window.form.object.text() == "The model is learning: press Encode when it has finished."
    school.go_on.set()
    window.wait(lambda: window.panel._lessons.job is None)
    assert not school.files and not window.told
    assert window.form.encode.isEnabled() and window.form.object.text().startswith("Press Encode")


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
    assert "default answers clicks until you press Encode." in window.form.object.text()
    window.encode()
    assert school.session.model is not old and len(window.told) == 2
    assert "until you press" not in window.form.object.text()


def test_adapting_that_cannot_begin_says_so(school, monkeypatch):
    window = school.window
    monkeypatch.setattr(type(window.panel), "_occupied", True)
    window.panel._safely(lambda: window.panel.adapt_as("mine"))
    assert "Adapting was not begun, because an image is being encoded" in window.told[-1]


def test_a_model_file_that_was_written_anew_is_read_again(school):
    window = school.window
    school.folder.mkdir(exist_ok=True)
    path = checkpoint.save_model(small := load_model(), school.folder / "mine.safetensors")
    window.form.add_model(str(path))
    window.panel._change_model()
    window.idle()
    first = school.session.model
    assert first.fingerprint == small.fingerprint
    window.panel._change_model()
    window.idle()
    assert school.session.model is first
    checkpoint.save_model(small, path)
    os.utime(path, (1, 1))
    window.panel._change_model()
    window.idle()
    assert school.session.model is not first
    path.unlink()
    assert window.panel._loaded.is_of(str(path), window.panel._loaded.device), "it goes on without its file"
