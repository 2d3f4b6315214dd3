"""For the window's tests: a real viewer with the panel, a real mouse, real keys; only the model is a simple one."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
from qtpy.QtCore import QEvent

from napari_interformer import checkpoint, journal
from napari_interformer.clicks import CLICKS
from napari_interformer.geometry import Box
from napari_interformer.labels import LABELS
from napari_interformer.prompts import BoxPrompt
from napari_interformer.widget import Panel
from window import PLENTY, BrightModel, Hands, squares

# napari's and vispy's own, not of our calls.
THEIRS = pytest.mark.filterwarnings("ignore::DeprecationWarning:napari", "ignore::DeprecationWarning:vispy")


class Window(Hands):
    """A viewer with the panel, and what a person sees and does in it."""

    def __init__(self, viewer, model):
        super().__init__(viewer)
        self.model, self.told = model, []
        # As the menu does, through which napari hands the panel a proxy of the viewer.
        _, self.panel = viewer.window.add_plugin_dock_widget("napari-interformer")
        self.form = self.panel.form

    def open_panel(self):
        """Open the panel anew, after it was closed."""
        self.panel = Panel(self.viewer)
        self.form = self.panel.form
        self.viewer.window.add_dock_widget(self.panel, name="InterFormer")

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


def box_around(centre, reach=10):
    """Return where to press and where to release for a box of pixels `reach` before a square's centre to as far behind it."""
    y, x = centre
    return (y - reach - 0.4, x - reach - 0.4), (y + reach - 0.6, x + reach - 0.6)


def drawn(centre, reach=10, plane=()):
    """Return the box prompt of `box_around`."""
    y, x = centre
    return BoxPrompt(plane, Box(x - reach, y - reach, x + reach, y + reach))


@pytest.fixture
def waiting(window):
    """Return a window in which a box on plane 3 of 4 waits until that is encoded, and the box."""
    image, centres = squares()
    begin_held_up(window, image)
    window.viewer.dims.set_current_step(0, 3)
    window.rest()
    window.key_and_wait("B")
    window.drag(*box_around(centres[0]))
    window.wait(lambda: window.panel.annotator.waiting)
    return window, drawn(centres[0], plane=(3,))


def finish_and_hold(window, first, second):
    """Finish an object at one place, and click at another, where the answer waits until the model's gate is open."""
    window.click_and_wait(first)
    window.key_and_wait("C")
    window.model.gate.clear()
    window.click(second)
    window.rest()


def begin_held_up(window, image, plane=0):
    """Begin to encode a stack of four planes, with one of them in view, of which no tile is encoded until the model may."""
    window.viewer.add_image(np.stack([image] * 4))
    window.viewer.dims.set_current_step(0, plane)
    window.model.steps = threading.Semaphore(0)
    window.encode(wait=False)
    window.wait(lambda: window.panel.annotator is not None)


def begin_and_stop(window, image):
    """Begin to encode a stack of four planes, and stop once clicks can begin."""
    begin_held_up(window, image)
    window.form.cancel.click()
    window.model.steps.release(PLENTY)
    window.wait(lambda: window.panel.job is None)


def same(some, others):
    return all(value.equal(others[name]) for name, value in some.items())


def crash(window, monkeypatch, labels=None):
    """Let the clicks be noted, then open the same image in a window that knows nothing, as after a crash; encode nothing."""
    panel = window.panel
    panel.notes.timer.timeout.emit()  # unless it has come already, on a busy machine
    panel.notes.journal._thread.shutdown(wait=True)
    monkeypatch.setattr(journal, "_OWN", {})
    window.viewer.window.remove_dock_widget("all")
    image = window.viewer.layers[0].data
    window.viewer.layers.clear()
    window.rest()
    window.open_panel()
    window.viewer.add_image(image)
    if labels is not None:
        window.form.labels.choose(window.viewer.add_labels(labels))


def after_a_crash(window, monkeypatch, labels=None):
    """Do as after a `crash`, and encode."""
    crash(window, monkeypatch, labels)
    window.encode()
    window.idle()
