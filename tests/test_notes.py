"""What is noted on disk, in a viewer that is closed and not only the panel in it; test_widget.py restores it."""

from __future__ import annotations

from qtpy.QtCore import QEvent

from napari_interformer import checkpoint, journal
from napari_interformer.stories import Saved
from napari_interformer.widget import Panel
from window import BrightModel, Hands, squares


def test_what_was_clicked_a_moment_before_the_viewer_is_closed_is_noted(monkeypatch, tmp_path, qapp):
    from napari import Viewer

    model = BrightModel()
    monkeypatch.setattr(checkpoint, "load_model", lambda *_, **__: model)
    monkeypatch.setattr(checkpoint, "models", lambda: {"default": "bright"})
    monkeypatch.setattr(journal, "folder", lambda: tmp_path)
    viewer = Viewer(show=True)
    panel, hands = Panel(viewer), Hands(viewer)
    viewer.window.add_dock_widget(panel)
    image, centres = squares()
    viewer.add_image(image)
    panel.encode()
    hands.wait(lambda: panel.annotator is not None and not panel.annotator.busy)
    panel.clicks.layer.add(centres[0])
    hands.wait(lambda: not panel.annotator.busy)
    assert panel.notes.timer.isActive() and not list(tmp_path.iterdir())
    written = panel.notes.journal
    viewer.close()
    qapp.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    written._thread.shutdown(wait=True)
    assert len(Saved.read(written.path).current.prompts) == 1
