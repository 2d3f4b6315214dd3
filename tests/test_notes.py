"""What is noted on disk when the window goes; test_window_layers.py restores it."""

from __future__ import annotations

from napari.components import ViewerModel
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QMainWindow

from napari_interformer import checkpoint, journal
from napari_interformer.image import Planes
from napari_interformer.records import Saved
from napari_interformer.widget import Panel
from window import PATIENCE, BrightModel, squares


def test_what_was_clicked_a_moment_before_the_window_is_gone_is_noted(monkeypatch, tmp_path, qtbot, qapp):
    model = BrightModel()
    monkeypatch.setattr(checkpoint, "load_model", lambda *_, **__: model)
    monkeypatch.setattr(checkpoint, "models", lambda: {"default": "bright"})
    monkeypatch.setattr(journal, "folder", lambda: tmp_path)
    viewer, window = ViewerModel(), QMainWindow()
    panel = Panel(viewer)
    window.setCentralWidget(panel)
    image, centres = squares()
    panel.notes.timer.setInterval(3_600_000)  # however slow the machine is, it is not the timer that writes
    viewer.add_image(image)
    panel.encode()
    qtbot.waitUntil(lambda: panel.annotator is not None and not panel.annotator.busy, timeout=PATIENCE * 1000)
    panel.clicks.layer.add(centres[0])
    qtbot.waitUntil(lambda: not panel.annotator.busy, timeout=PATIENCE * 1000)
    assert panel.notes.timer.isActive() and not list(tmp_path.iterdir())
    written = panel.notes.journal
    window.deleteLater()  # what a viewer's frame does: the panel is neither closed nor taken out of its dock
    qapp.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    written._thread.shutdown(wait=True)
    assert len(Saved.read(written.path).current.prompts) == 1
    found = journal.offer(Planes.of(image).fingerprint, 0)  # to another window of the same notebook
    assert found is not None and found.path == written.path
