"""Other images, and other pixels, while there are clicks."""

from __future__ import annotations

import gc
import threading
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from qtpy.QtWidgets import QFileDialog, QInputDialog

from napari_interformer import dialogs, widget
from napari_interformer.clicks import CLICKS
from napari_interformer.labels import LABELS
from napari_interformer.prompts import Click
from panel import THEIRS, area, begin_and_stop
from window import PATIENCE, squares

pytest_plugins = ("panel",)
pytestmark = THEIRS


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


def test_where_the_objects_of_a_movie_that_got_longer_stay_is_told(window):
    image, centres = squares()
    window.open(np.stack([image] * 2))
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    before = window.panel.labels.layer
    window.viewer.layers[0].data = np.stack([image] * 3)
    window.idle()
    window.encode()
    after = window.panel.labels.layer
    assert after is not before and after.data.shape == (3, *image.shape) and area(before.data) == 400
    assert any(f"what is in {before.name} stays there" in told for told in window.told)


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


@pytest.mark.parametrize("removed", [True, False], ids=["removed", "with new pixels"])
def test_another_image_that_changes_does_not_stop_an_encode(field, while_preparing, removed):
    window, _ = field
    image, centres = squares((64, 200))
    first, layer = window.viewer.layers[0], window.viewer.add_image(image, name="next")
    window.form.image.choose(layer)
    window.form.image.activated.emit(window.form.image.currentIndex())

    def change():
        if removed:
            window.viewer.layers.remove(first)
        else:
            first.data = np.roll(first.data, 5)

    while_preparing(window, change)
    assert window.form.bar.text() == "encoded" and window.panel.clicks.source.image is layer
    window.click_and_wait(centres[0])
    assert area(window.viewer.layers["InterFormer labels [1]"].data) == 400


def test_pixels_replaced_while_an_encode_is_prepared_are_told(window, while_preparing):
    image, _ = squares()
    layer = window.viewer.add_image(image)
    while_preparing(window, lambda: setattr(layer, "data", np.roll(image, 5)))
    assert "The pixels of " in window.told[-1] and window.form.bar.text() != "encoded"


def test_the_image_that_is_looked_at_is_encoded_unless_another_was_chosen(window):
    image, _ = squares()
    first, second = (window.viewer.add_image(image, name=name) for name in ("first", "second"))
    assert window.form.image.layer() is second
    window.viewer.layers.selection.active = first
    assert window.form.image.layer() is first
    mine = window.viewer.add_labels(np.zeros_like(image, int), name="mine")
    window.form.labels.choose(mine)
    window.viewer.layers.selection.active = first
    assert window.form.labels.layer() is mine
    window.choose(second)
    window.viewer.layers.selection.active = first
    assert window.form.image.layer() is second
    window.encode()
    window.viewer.layers.selection.active = first
    assert window.form.image.layer() is second


def test_rows_follow_the_axes_that_an_image_gets(window):
    image, _ = squares()
    layer = window.open(np.stack([image] * 2))
    form = window.form
    form.channel_axis.setCurrentIndex(form.channel_axis.findData(0))
    window.encode()
    layer.data = image
    window.encode()
    assert form.channel_axis.currentData() is None and window.panel.features.shape == image.shape
    layer.data = np.stack([image] * 3)
    assert form.channel_axis.count() == 4


def test_few_planes_that_may_be_channels_are_told(window):
    image, centres = squares()
    window.open(np.stack([image] * 3))
    assert "image is taken as 3 planes; if they are channels" in window.form.object.text().lower()
    window.click_and_wait(centres[0])
    assert "channels" not in window.form.object.text()
    window.open(np.stack([image] * 3), axis_labels=("z", "y", "x"), name="other")
    assert "channels" not in window.form.object.text()


def test_a_file_that_was_not_chosen_after_all_changes_no_model(window, monkeypatch):
    image, _ = squares()
    window.viewer.add_image(image)
    window.rest()
    form = window.form
    form.add_model("mine.safetensors")
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: ("", ""))
    form.model.setCurrentIndex(form.model.count() - 1)
    form.model.activated.emit(form.model.currentIndex())
    assert form.model_name() == "mine.safetensors" == form.model.currentData()


def test_files_are_proposed_beside_the_image(window, monkeypatch, tmp_path):
    image, _ = squares()
    tifffile.imwrite(tmp_path / "cells.ome.tif", image)
    window.viewer.open(tmp_path / "cells.ome.tif", plugin="napari")
    window.encode()
    asked = []
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *given: asked.append(given[2]) or ("", ""))
    window.form.save_labels.click()
    window.form.save_prompts.click()
    assert asked == [str(tmp_path / "cells labels.ome.tif"), str(tmp_path / "cells clicks.json")]


@pytest.mark.parametrize(
    ("path", "proposed"),
    [
        ("2024.05.12_cell A.tif", "2024.05.12_cell A"),
        ("s_1.5um.ome.tif", "s_1.5um"),
        ("s_1.5um", "s_1.5um"),
        ("plate.zarr/A/1/0", "plate"),
        ("plate.ome.zarr", "plate"),
    ],
)
def test_files_are_proposed_by_names_that_only_lose_their_endings(path, proposed, tmp_path):
    (tmp_path / path).mkdir(parents=True)
    image = SimpleNamespace(source=SimpleNamespace(path=str(tmp_path / path)))
    assert dialogs._beside(image, "clicks.json") == str(tmp_path / f"{proposed} clicks.json")


@pytest.mark.parametrize(
    ("given", "chosen"),
    [("a", "a.zarr"), ("a labels.ome.tif", "a labels.zarr"), ("a.ZARR", "a.ZARR"), ("a.v2", "a.v2.zarr")],
)
def test_the_kind_of_file_that_is_chosen_holds(given, chosen, tmp_path, monkeypatch):
    image = SimpleNamespace(source=SimpleNamespace(path=None))
    told = str(tmp_path / given), "OME-Zarr (*.zarr)"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: told)
    assert dialogs.labels_to_save(None, image) == tmp_path / chosen
    if given != chosen:
        (tmp_path / chosen).mkdir()
        with pytest.raises(FileExistsError, match="already exists; choose it in the list"):
            dialogs.labels_to_save(None, image)


def test_what_is_chosen_in_a_dialog_holds_for_the_image_it_was_asked_of(field, monkeypatch, tmp_path):
    """The next image may be ready while a dialog is open."""
    window, centres = field
    window.click_and_wait(centres[0])
    window.key_and_wait("C")
    first, labels = window.viewer.layers["image"], window.panel.labels.layer
    second = window.viewer.add_image(squares()[0].T.copy(), name="second")

    def meanwhile(answer):
        def dialog(*_, **__):
            window.choose(second if window.panel.clicks.source.image is first else first)
            window.form.encode.click()
            annotator = window.panel.annotator
            window.wait(lambda: window.panel.job is None and window.panel.annotator is not annotator)
            return answer

        return dialog

    monkeypatch.setattr(
        QFileDialog, "getSaveFileName", meanwhile((str(tmp_path / "first.tif"), "OME-TIFF (*.tif)"))
    )
    window.form.save_labels.click()
    window.wait(lambda: (tmp_path / "first.tif").exists())
    window.idle()
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "first.tif"), labels.data)
    monkeypatch.setattr(QFileDialog, "getOpenFileName", meanwhile((str(tmp_path / "c.json"), "")))
    window.form.load_prompts.click()
    window.idle()
    assert window.told[-1].startswith("Clicks were not loaded, because another image was begun meanwhile")
    window.click_and_wait(centres[1])
    window.key_and_wait("C")
    monkeypatch.setattr(QInputDialog, "getText", meanwhile(("mine", True)))
    window.form.adapt_model.click()
    window.idle()
    assert window.told[-1].startswith("Adapting was not begun, because another image was begun meanwhile")


def test_choosing_the_same_image_again_keeps_the_labels_that_were_chosen(window):
    window.viewer.add_image(squares()[0], name="image")
    mine = window.viewer.add_labels(np.zeros(squares()[0].shape, np.int32), name="mine")
    window.form.labels.choose(mine)
    window.choose(window.viewer.layers["image"])
    assert window.form.labels.layer() is mine
