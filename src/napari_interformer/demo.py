"""The demo: the sample in a window with the panel beside it, or segmented by simulated clicks where there is no display."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import click
import numpy as np

import napari_interformer as ni
from napari_interformer import GET_EXTRA, NAME
from napari_interformer.geometry import iou
from napari_interformer.image import Planes
from napari_interformer.label_files import write_labels
from napari_interformer.picture import write_picture
from napari_interformer.samples import cells
from napari_interformer.simulate import next_click
from napari_interformer.terminal import count

if TYPE_CHECKING:
    from pathlib import Path

LABELS, PICTURE = "labels.tif", "overlay.png"  # what is written
OBJECTS, CLICKS = 12, 3  # the largest cells, and clicks on each at most


def why_no_window() -> str | None:
    """Return why napari cannot open a window here, or None if it can."""
    if importlib.util.find_spec("napari") is None:
        return f"napari is not installed: {GET_EXTRA.format('all')}"
    on_linux = sys.platform.startswith("linux")
    if on_linux and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no display"
    # Qt ends the whole process when a system library is missing, so another process tries first.
    probe = "from qtpy.QtWidgets import QApplication; QApplication([])"
    if subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False).returncode:
        return "Qt could not open the display"
    return None


def open_window() -> None:
    """Open napari with the 2-D sample and the plugin's panel; return when the window is closed."""
    import napari  # noqa: TID251 - headless it is not needed, and may not be there

    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Qt lets Python hear of a signal only when it has time
    viewer = napari.Viewer(title="napari-interformer demo")
    viewer.open_sample(NAME, "cells")
    viewer.window.add_plugin_dock_widget(NAME)
    click.echo(
        "Press Encode, then click on a nucleus. A right click is a negative click; C commits the object."
    )
    napari.run()


def run_headless(folder: Path) -> None:
    """Segment some cells of the sample with simulated clicks, and leave the labels and a picture in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    image, truth = cells()
    planes = Planes.of(image)
    model = ni.load_model()
    began = time.perf_counter()
    features = ni.encode(planes, model)
    click.echo(f"encoded {planes.size[0]} x {planes.size[1]} pixels in {time.perf_counter() - began:.2f} s")

    session = ni.Session(features, model)
    numbers, sizes = np.unique(truth[truth > 0], return_counts=True)
    chosen = sorted(int(n) for n in numbers[np.argsort(sizes)[::-1][:OBJECTS]])
    scores, seconds = [], []
    for number in chosen:
        target = truth == number
        for _ in range(CLICKS):
            step = next_click(session.mask, target)
            if step is None:
                break
            y, x, positive = step
            began = time.perf_counter()
            session.click((y, x), positive)
            seconds.append(time.perf_counter() - began)
        scores.append(iou(session.mask, target))
        session.commit()
    write_labels(
        folder / LABELS,
        np.asarray(session.labels),
        axes=planes.axes,
        scale=planes.scale,
        unit=planes.unit,
    )
    write_picture(folder / PICTURE, planes, session, ())
    click.echo(
        f"{count(len(chosen), 'cell')}, at most {CLICKS} clicks each: IoU {np.mean(scores):.3f} on average, "
        f"{min(scores):.3f} at worst; {1000 * np.median(seconds):.0f} ms a click"
    )
    click.echo(f"labels: {folder / LABELS}")
    click.echo(f"picture: {folder / PICTURE}")
