"""How long a click takes in a real napari window, from the mouse event to the frame that shows the new labels.

For example `xvfb-run -s "-screen 0 1400x1000x24" python benchmarks/window.py`, or without xvfb-run on a desktop. Prints a
table, and JSON with `--json`. The matrix product at its end tells how fast the machine was during this very run.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import dask.array as da
import napari
import numpy as np
from qtpy.QtCore import QEventLoop, QPoint, Qt, QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_interformer.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ARRIVED, RESTED = 0.03, 0.3  # seconds from the last move to the press: people aim, and then press


class Bench:
    """A viewer with the panel, a hand on the mouse, and a watch on the screen."""

    def __init__(self) -> None:
        self.viewer = napari.Viewer()
        self.app = QApplication.instance()
        self.viewer.window.resize(1300, 950)
        self.canvas = self.viewer.window._qt_viewer.canvas.native
        self.rest(1)
        began = time.perf_counter()
        _, self.panel = self.viewer.window.add_plugin_dock_widget("napari-interformer")
        self.app.processEvents()
        self.opened = 1e3 * (time.perf_counter() - began)
        self._changed = False
        self._seen = 0.0
        self.canvas.frameSwapped.connect(self._swapped)
        self.rest(0.5)

    def _wrote(self, _: Any = None) -> None:
        self._changed = True

    def _swapped(self) -> None:
        if self._changed and not self._seen:
            self._seen = time.perf_counter()

    def until(self, done: Callable[[], Any], seconds: float = 300) -> None:
        """Let the event loop run as napari does, until something is so."""
        loop, end = QEventLoop(), time.monotonic() + seconds
        timer = QTimer()
        timer.setInterval(1)
        timer.timeout.connect(lambda: loop.quit() if done() or time.monotonic() > end else None)
        timer.start()
        loop.exec()
        timer.stop()
        if not done():
            raise TimeoutError(f"waited {seconds} s in vain")

    def rest(self, seconds: float) -> None:
        """Let the event loop run for a while."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > end)

    def settle(self) -> None:
        """Wait until nothing is being decoded, and what follows it is painted."""
        self.until(lambda: self.panel.annotator is not None and not self.panel.annotator.busy)
        self.rest(0.06)

    def open(self, image: Any, **kwargs: Any) -> None:
        """Show one image and no other, and get ready for its clicks; encoding has begun then."""
        for layer in list(self.viewer.layers):
            self.viewer.layers.remove(layer)
        self.until(lambda: self.panel.clicks is None and self.panel.job is None)
        self.viewer.add_image(image, **kwargs)
        self.viewer.reset_view()
        self.rest(0.3)
        self.panel.form.encode.click()
        self.until(lambda: self.panel.annotator is not None)
        layer = self.panel.labels.layer
        layer.events.labels_update.connect(self._wrote)
        layer.events.set_data.connect(self._wrote)

    def encoded(self) -> None:
        """Wait until nothing is encoded any more."""
        self.until(lambda: self.panel.job is None)
        self.settle()

    def look_at(self, centre: Sequence[float], zoom: float) -> None:
        """Move the camera."""
        camera = Screen(self.viewer).camera
        camera.center, camera.zoom = (0, *centre), zoom
        self.rest(0.5)

    def timed(self, act: Callable[[], None]) -> float:
        """Return milliseconds from an event to the frame that shows other labels."""
        self._changed, self._seen = False, 0.0
        began = time.perf_counter()
        act()
        self.until(lambda: self._seen, 60)
        return 1e3 * (self._seen - began)

    def click(self, place: Sequence[float], rest: float = ARRIVED) -> float:
        """Click on a pixel with the mouse, which rests there for some seconds before."""
        camera = Screen(self.viewer).camera
        away = (np.asarray(place, float) - np.asarray(camera.center)[-2:]) * camera.zoom
        point = QPoint(round(self.canvas.width() / 2 + away[1]), round(self.canvas.height() / 2 + away[0]))
        QTest.mouseMove(self.canvas, point)
        self.rest(rest)

        def act() -> None:
            # Two events, as from a real mouse, so that the time between them is nobody's pause.
            QTest.mousePress(self.canvas, Qt.MouseButton.LeftButton, pos=point)
            self.app.processEvents()
            QTest.mouseRelease(self.canvas, Qt.MouseButton.LeftButton, pos=point)

        return self.timed(act)

    def press(self, letter: str, *modifiers: str) -> None:
        """Press a key."""
        held = Qt.KeyboardModifier.NoModifier
        for modifier in modifiers:
            held |= getattr(Qt.KeyboardModifier, f"{modifier}Modifier")
        QTest.keyClick(self.canvas, getattr(Qt.Key, f"Key_{letter}"), held)

    def objects(self, places: Sequence[tuple[float, float]]) -> dict[str, list[float]]:
        """Click each object twice, undo and redo the second click, commit; return the times."""
        names = ("click", "click, mouse rested", "undo", "redo", "napari's own brush")
        times: dict[str, list[float]] = {name: [] for name in names}
        for y, x in places:
            for name, rest in (("click", ARRIVED), ("click, mouse rested", RESTED)):
                for dy in (0, 3):
                    with suppress(TimeoutError):  # the second click changed nothing
                        times[name].append(self.click((y + dy, x), rest))
                    self.settle()
                if name == "click":
                    self.press("C", "Shift")
                    self.settle()
            if self.panel.annotator.can_undo:
                times["undo"].append(self.timed(lambda: self.press("Z", "Control")))
                self.settle()
                times["redo"].append(self.timed(lambda: self.press("Z", "Control", "Shift")))
                self.settle()
            self.press("C")
            self.settle()
            if not self.panel.labels.layer.multiscale:
                times["napari's own brush"].append(self.timed(partial(self.dab, y, x)))
                self.settle()
        return times

    def points(self, places: Sequence[tuple[float, float]]) -> list[float]:
        """Add points to a layer that nobody listens to: what napari itself needs for a click, whatever is made of it."""
        layer = self.viewer.add_points(np.zeros((0, 2)), size=8)
        layer.mode = "add"
        layer.events.data.connect(self._wrote)
        self.rest(0.5)
        times = []
        for place in places:
            times.append(self.click(place, RESTED))
            self.rest(0.1)
        self.viewer.layers.remove(layer)
        return times

    def dab(self, y: float, x: float) -> None:
        """Paint as a brush does, without a session: what of the other times is napari's."""
        layer = self.panel.labels.layer
        rows, columns = (part.ravel() for part in np.mgrid[int(y) : int(y) + 9, int(x) : int(x) + 9])
        plane = [np.full(rows.shape, step) for step in self.viewer.dims.current_step[:-2]]
        layer.data_setitem(
            (*plane, rows, columns), int(layer.data[(*(p[0] for p in plane), int(y), int(x))]) + 1
        )


def centres(truth: np.ndarray, count: int, inside: int = 40) -> list[tuple[float, float]]:
    """Return places within that many objects, away from the border."""
    from scipy import ndimage

    found = []
    for label in range(1, int(truth.max()) + 1):
        distance = ndimage.distance_transform_edt(truth == label)
        y, x = np.unravel_index(distance.argmax(), truth.shape)
        if inside < y < truth.shape[0] - inside and inside < x < truth.shape[1] - inside:
            found.append((float(y), float(x)))
    return found[:count]


def told(times: Sequence[float]) -> dict[str, float]:
    """Return median and 95th percentile of some times."""
    if not times:
        return {}
    p50, p95 = np.percentile(times, [50, 95])
    return {"p50": round(float(p50), 1), "p95": round(float(p95), 1), "n": len(times)}


def product() -> float:
    """Return milliseconds of a matrix product of 1757 x 1757 in float32: how fast the machine is now."""
    a = np.random.default_rng(0).random((1757, 1757), np.float32)
    took = []
    for _ in range(7):
        began = time.perf_counter()
        a @ a
        took.append(1e3 * (time.perf_counter() - began))
    return float(np.median(took))


def on_a_plane(bench: Bench, count: int) -> dict[str, Any]:
    """Measure on 512 x 512 pixels."""
    from napari_interformer.samples import cells

    image, truth = cells()
    bench.open(image)
    bench.encoded()
    places = centres(truth, count)
    first = bench.click(places[0])
    bench.settle()
    bench.press("C")
    bench.settle()
    times = bench.objects(places[1:])
    times["napari's own point"] = bench.points(places[1:])
    return {"first": round(first, 1), **{name: told(values) for name, values in times.items()}}


def in_a_stack(bench: Bench, count: int) -> dict[str, Any]:
    """Measure in 1,000 planes of 512 x 512 of which few are encoded."""
    from napari_interformer.samples import cells

    image, truth = cells()
    bench.open(da.stack([da.from_array(image)] * 1000))
    bench.panel.cancel()
    bench.encoded()
    bench.viewer.dims.set_current_step(0, 700)
    bench.rest(0.5)
    places = centres(truth, count)
    began = time.perf_counter()
    bench.click(places[0])  # encodes the plane first
    waited = time.perf_counter() - began
    bench.encoded()
    bench.press("C")
    bench.settle()
    times = bench.objects(places[1:])
    return {"first with encoding s": round(waited, 1), **{n: told(values) for n, values in times.items()}}


def on_a_huge_plane(bench: Bench, count: int) -> dict[str, Any]:
    """Measure on 20,000 x 20,000 pixels of which one corner of 768 x 768 is encoded."""
    from napari_interformer.geometry import Box
    from napari_interformer.samples import cells

    image, truth = cells()
    whole = da.tile(da.from_array(image), (40, 40))[:20000, :20000]
    top = left = 512 * 18
    bench.open([whole, whole[::4, ::4], whole[::16, ::16], whole[::64, ::64]], multiscale=True)
    bench.look_at((top + 256, left + 256), 1.3)
    clicked_on = Box(left - 128, top - 128, left + 640, top + 640)
    bench.until(lambda: bench.panel.annotator.session.features.ready((), clicked_on))
    bench.panel.cancel()
    bench.encoded()
    times = bench.objects([(y + top, x + left) for y, x in centres(truth, count)])
    return {name: told(values) for name, values in times.items()}


def large_objects(bench: Bench, _: int) -> dict[str, Any]:
    """Measure pauses of the event loop while an object on 100 planes, and one of 3,000 pixels across, are written.

    Their masks are made up, since the network is not what is measured.
    """
    found = written(bench, "100 planes", (100, 512, 512), 200)
    return found | written(bench, "3,000 pixels", (4096, 4096), 3000)


def written(bench: Bench, name: str, shape: tuple[int, ...], across: int) -> dict[str, Any]:
    """Measure one disk on each plane of an empty image."""
    from napari_interformer.decoding import Step, View
    from napari_interformer.geometry import Box
    from napari_interformer.prompts import Mask

    disk = np.add.outer(*2 * [(np.arange(across) - across / 2) ** 2]) < across**2 / 4
    low = (shape[-1] - across) // 2
    box = Box(low, low, low + across, low + across)
    view = View(0, Box(0, 0, 0, 0), np.zeros((0, 0), np.uint8), np.zeros((0, 0), bool))
    planes = list(np.ndindex(*shape[:-2]))
    steps = tuple(Step((Mask(plane, box, disk),), box, disk, view) for plane in planes)
    bench.open(np.zeros(shape, np.uint8))
    bench.panel.cancel()
    bench.encoded()
    bench.rest(0.5)
    annotator = bench.panel.annotator
    found: dict[str, Any] = {}
    for what, act in {
        "writing": lambda: annotator.act(lambda _: annotator.session.adopt(steps)),
        "undo": annotator.undo,
        "redo": annotator.redo,
        "commit": annotator.commit,
        "edit": lambda: annotator.edit(1),
        "clear": annotator.clear,
    }.items():

        def work(act: Callable[[], None] = act) -> None:
            act()
            bench.settle()

        began = time.perf_counter()
        found[f"{name}: longest pause, {what}"] = pauses(bench, work)
        found[f"{name}: until written, {what}"] = round(1e3 * (time.perf_counter() - began), 1)
    return found


def pauses(bench: Bench, work: Callable[[], None]) -> float:
    """Return the event loop's longest pause while something is done, in milliseconds."""
    ticks: list[float] = []
    timer = QTimer()
    timer.setTimerType(Qt.TimerType.PreciseTimer)
    timer.setInterval(1)
    timer.timeout.connect(lambda: ticks.append(time.perf_counter()))
    timer.start()
    bench.rest(0.01)  # or a pause at once would not lie between two ticks
    work()
    bench.rest(0.01)
    timer.stop()
    return round(1e3 * float(np.diff(ticks).max()), 1)


def while_encoding(bench: Bench, count: int) -> dict[str, Any]:
    """Measure pauses of the event loop, and clicks, while a stack of 24 planes is encoded and when it is idle."""
    from napari_interformer.samples import cells

    image, truth = cells()
    places = centres(truth, count)

    def clicks(rest: float) -> list[float]:
        times = []
        for place in places:
            times.append(bench.click(place, rest))
            bench.settle()
            bench.press("C", "Shift")
            bench.settle()
        return times

    bench.open(np.stack([image] * 24))
    plane = bench.viewer.dims.current_step[0]
    bench.until(lambda: bench.panel.features.ready((plane,)))
    bench.settle()
    found: dict[str, Any] = {}
    found["longest pause, encoding"] = pauses(bench, lambda: bench.rest(4))
    during: list[float] = []
    rested: list[float] = []
    found["longest pause, encoding and clicks"] = pauses(bench, lambda: during.extend(clicks(ARRIVED)))
    found["longest pause, encoding and clicks, mouse rested"] = pauses(
        bench, lambda: rested.extend(clicks(RESTED))
    )
    if bench.panel.job is None:
        raise RuntimeError("the encode ended too early; take fewer clicks")
    bench.panel.cancel()
    bench.encoded()
    idle: list[float] = []
    found["longest pause, idle and clicks"] = pauses(bench, lambda: idle.extend(clicks(ARRIVED)))
    found["longest pause, idle"] = pauses(bench, lambda: bench.rest(2))
    clicked = {"click, encoding": during, "click, encoding, mouse rested": rested, "click, idle": idle}
    return {**found, **{name: told(times) for name, times in clicked.items()}}


PARTS = {
    "plane": on_a_plane,
    "encode": while_encoding,
    "stack": in_a_stack,
    "huge": on_a_huge_plane,
    "large": large_objects,
}


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(["open", *PARTS]))
@click.option("--objects", default=12, show_default=True, help="That are clicked on, at most.")
@click.option("--json", "kept", type=click.Path(path_type=Path), help="File to keep the figures in.")
def main(parts: tuple[str, ...], objects: int, kept: Path | None) -> None:
    """Measure PARTS, or all, and print a table."""
    bench = Bench()
    found: dict[str, Any] = {"open ms": round(bench.opened, 1)}
    for name, part in PARTS.items():
        if name in (parts or PARTS):
            found[name] = part(bench, objects)
            for key, value in found[name].items():
                click.echo(f"{name:8} {key:36} {value}")
    found["matrix product ms"] = round(product(), 1)
    click.echo(f"open {found['open ms']} ms, matrix product {found['matrix product ms']} ms")
    if kept:
        kept.write_text(json.dumps(found, indent=1))
    bench.panel.release()
    bench.viewer.close()


if __name__ == "__main__":
    main()
