"""Make the pictures of the documentation from real runs: ``python docs/make_figures.py [--data FOLDER]``.

The window's pictures are screenshots of napari with the sample, encoded by the default model and clicked at; without a
display they are taken on a virtual one (Xvfb). With ``--data`` (the folder of dsb2018) the benchmark runs as well, on its
validation images.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from napari_interformer import journal
from napari_interformer.geometry import iou
from napari_interformer.samples import FAMILIES, VOLUMES, cells, nuclei_stack, synthetic, synthetic_stack
from napari_interformer.screen import Screen
from napari_interformer.simulate import next_click

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGES = Path(__file__).resolve().parent / "images"
SIZE = (1280, 900)


def main() -> None:
    """Make all pictures."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", type=Path, help="folder of dsb2018, for the benchmark's figures")
    data = options.parse_args().data
    IMAGES.mkdir(exist_ok=True)
    with display(), tempfile.TemporaryDirectory() as scratch:
        journal.folder = lambda: Path(scratch)  # or the window would offer what was clicked before
        window_with_cells(IMAGES / "napari.png")  # first, or it would offer what the others clicked
        clicks_in_turn(IMAGES / "clicks.gif")
        canvas_with_boxes(IMAGES / "boxes.png")
        canvas_with_similar(IMAGES / "similar.png")
        window_with_stack(IMAGES / "stack.png")
    families(IMAGES / "families.png")
    overlay(IMAGES / "overlay.png")
    if data is not None:
        benchmark(data)
    for path in sorted(IMAGES.iterdir()):
        print(f"{path.relative_to(IMAGES.parent)}: {path.stat().st_size / 1000:.0f} kB")


def display() -> contextlib.AbstractContextManager[Any]:
    """Return a virtual display where there is no other."""
    if not sys.platform.startswith("linux") or os.environ.get("DISPLAY"):
        return contextlib.nullcontext()
    from pyvirtualdisplay.display import Display

    virtual: contextlib.AbstractContextManager[Any] = Display(size=(SIZE[0] + 20, SIZE[1] + 20))
    return virtual


def open_panel(sample: str) -> tuple[Any, Any]:
    """Open napari with a sample and the panel, and encode the sample."""
    import napari

    viewer = napari.Viewer(show=True)
    viewer.window.resize(*SIZE)
    viewer.open_sample("napari-interformer", sample)
    _, panel = viewer.window.add_plugin_dock_widget("napari-interformer")
    settle(lambda: panel.form.model.count() > 0)
    panel.encode()
    settle(lambda: panel.job is None)
    return viewer, panel


def settle(done: Callable[[], bool] = lambda: True, at_least: float = 0.3) -> None:
    """Let the window work for some seconds, and until something is done."""
    from qtpy.QtWidgets import QApplication

    began = time.monotonic()
    while time.monotonic() - began < at_least or not done():
        QApplication.processEvents()
        time.sleep(0.01)
        if time.monotonic() - began > 600:
            raise TimeoutError("the window did not get there")


def idle(panel: Any, at_least: float = 0.3) -> None:
    """Let the window work until everything is answered."""
    settle(lambda: not panel.annotator.busy, at_least)


def close(viewer: Any) -> None:
    """Close a window, and let it go."""
    viewer.close()
    settle()


def click(panel: Any, position: tuple[int, ...], positive: bool) -> None:
    """Add a point as a click on the canvas does, and wait for the mask."""
    if panel.canvas.positive != positive:
        panel.toggle_sign()
    panel.clicks.layer.add(np.array([position], float))
    idle(panel)


def click_on_object(
    panel: Any,
    target: np.ndarray,
    do: Callable[[Any, tuple[int, ...], bool], None] = click,
    good: float = 0.85,
    most: int = 3,
) -> None:
    """Click on an object of a plane until its mask is good, or `most` times."""
    session = panel.annotator.session
    for _ in range(most):
        step = next_click(session.mask, target)
        if step is None or iou(session.mask, target) > good:
            break
        do(panel, step[:2], step[2])


def window_with_cells(path: Path) -> None:
    """Segment a good part of the 2-D sample, and leave one object with a positive and a negative click."""
    _, truth = cells()
    viewer, panel = open_panel("cells")
    numbers = [int(n) for n in np.unique(truth[130:400, 100:420]) if n]
    for number in numbers[:42]:
        click_on_object(panel, truth == number)
        if panel.annotator.session.mask.any():
            panel.commit()
        else:
            panel.clear()
        idle(panel)
    target = truth == truth[83, 260]
    click(panel, (83, 260), True)
    step = next_click(panel.annotator.session.mask, target)
    outside = step[:2] if step is not None and not step[2] else (110, 272)
    click(panel, outside, False)
    camera = Screen(viewer).camera
    camera.center = (0, 215, 260)
    camera.zoom = 2.1
    shoot(viewer, path)


def clicks_in_turn(path: Path) -> None:
    """Segment some of the 2-D sample click by click, then find what looks like it: a picture that moves."""
    _, truth = cells()
    viewer, panel = open_panel("cells")
    camera = Screen(viewer).camera
    camera.center, camera.zoom = (0, 165, 350), 2.6
    film = Film(viewer)
    film.take("The image is encoded. Click on a nucleus", 1200)
    touching = int(truth[143, 392])  # the first answer takes some of its neighbour, too
    numbers = [int(n) for n in np.unique(truth[120:220, 270:380]) if n and (truth == n).sum() > 300]
    numbers = [touching, *(number for number in numbers if number != touching)][:3]
    for number in numbers:
        click_on_object(panel, truth == number, film.click, good=0.9, most=4)
        panel.commit()
        idle(panel)
        film.take("C: finished", 700)
    film.take("G: find what looks like these", 1000)
    panel.find_similar()
    idle(panel, at_least=1)
    film.take("Found. Correct what is wrong, or take it back with Ctrl+Z", 3000)
    film.save(path)
    close(viewer)


class Film:
    """The canvas, frame by frame, with a caption and the mouse."""

    side = (360, 560)  # rows and columns of the canvas that are kept, from its middle

    def __init__(self, viewer: Any) -> None:
        self.viewer = viewer
        self.frames: list[Image.Image] = []
        self.times: list[int] = []

    def take(self, caption: str, milliseconds: int, mouse: tuple[int, ...] | None = None) -> None:
        """Add a frame; `mouse` is a pixel of the image."""
        settle(at_least=0.6)
        picture = self.viewer.screenshot(canvas_only=True, flash=False)
        top, left = ((have - keep) // 2 for have, keep in zip(picture.shape, self.side, strict=False))
        frame = Image.fromarray(picture).convert("RGB")
        draw = ImageDraw.Draw(frame)
        if mouse is not None:
            camera = Screen(self.viewer).camera
            away = (np.array(mouse) - np.array(camera.center)[-2:]) * camera.zoom
            y, x = away + np.array(picture.shape[:2]) / 2
            arrow = np.array([(0, 0), (0, 17), (4, 13), (7, 19), (10, 18), (7, 12), (12, 12)])
            draw.polygon([(x + dx, y + dy) for dx, dy in arrow], "white", "black")
        rows, columns = self.side
        bottom = top + rows
        draw.rectangle((0, bottom - 30, picture.shape[1], bottom), (38, 41, 48))
        draw.text((left + 12, bottom - 25), caption, "white", ImageFont.load_default(16))
        self.frames.append(frame.crop((left, top, left + columns, bottom)))
        self.times.append(milliseconds)

    def click(self, panel: Any, place: tuple[int, ...], positive: bool) -> None:
        """Show the mouse where it clicks next, then what the click gave."""
        caption = "Click" if positive else "Too much: click there with the right button"
        self.take(caption, 450, place)
        click(panel, place, positive)
        self.take(caption, 700, place)

    def save(self, path: Path) -> None:
        """Write a GIF of few colours, the same for all frames, so that only what changes is stored again."""
        pixels = np.vstack([np.asarray(frame) for frame in self.frames])
        coloured = pixels[np.ptp(pixels.astype(int), axis=2) > 20][None]
        found = Image.fromarray(coloured).quantize(96, Image.Quantize.MAXCOVERAGE).getpalette()
        palette = Image.new("P", (1, 1))
        palette.putpalette([*np.repeat(np.arange(0, 256, 4), 3).tolist(), *(found or [])])
        first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in self.frames)
        first.save(path, save_all=True, append_images=others, duration=self.times, loop=0, optimize=True)


def canvas_with_boxes(path: Path) -> None:
    """Segment three nuclei from boxes, and leave a fourth with its box."""
    _, truth = cells()
    viewer, panel = open_panel("cells")
    numbers = [int(n) for n in np.unique(truth[150:280, 180:340]) if n and (truth == n).sum() > 300][:4]
    for number in numbers:
        if panel.annotator.session.mask.any():
            panel.commit()
        rows, columns = np.nonzero(truth == number)
        (top, left), (bottom, right) = (rows.min(), columns.min()), (rows.max(), columns.max())
        layer = panel.clicks.shapes.make()
        corners = [(top, left), (top, right), (bottom, right), (bottom, left)]
        layer.add_rectangles([corners])
        idle(panel)
    camera = Screen(viewer).camera
    camera.center = (0, 215, 260)
    camera.zoom = 3
    settle(at_least=1.5)
    save(viewer.screenshot(canvas_only=True, flash=False), path)
    close(viewer)


def canvas_with_similar(path: Path) -> None:
    """Finish three nuclei, and find what looks like them in view; before and after, side by side."""
    _, truth = cells()
    viewer, panel = open_panel("cells")
    camera = Screen(viewer).camera
    camera.center, camera.zoom = (0, 250, 250), 2
    numbers = [int(n) for n in np.unique(truth[200:300, 200:300]) if n and (truth == n).sum() > 300][:3]
    for number in numbers:
        click_on_object(panel, truth == number)
        panel.commit()
        idle(panel)
    pictures = []
    for _ in range(2):
        settle(at_least=1.5)
        picture = viewer.screenshot(canvas_only=True, flash=False)
        side = min(picture.shape[:2])
        top, left = ((length - side) // 2 for length in picture.shape[:2])
        pictures.append(picture[top : top + side, left : left + side])
        panel.find_similar()
        idle(panel, at_least=1)
    gap = np.full((side, 6, 4), 255, np.uint8)
    save(np.hstack([pictures[0], gap, pictures[1]]), path)
    close(viewer)


def window_with_stack(path: Path) -> None:
    """Carry one nucleus through the stack from a single click."""
    _, truth = nuclei_stack()
    viewer, panel = open_panel("nuclei")
    number = int(truth[12, 209, 153])
    planes = np.unique(np.nonzero(truth == number)[0])
    z = int(planes[len(planes) // 2])
    viewer.dims.set_current_step(0, z)
    y, x, _ = next_click(np.zeros_like(truth[z], bool), truth[z] == number) or (0, 0, True)
    click(panel, (z, y, x), True)
    panel.propagate()
    idle(panel, at_least=1)
    viewer.dims.set_current_step(0, z + 1)
    shoot(viewer, path)


def shoot(viewer: Any, path: Path) -> None:
    """Take the window's picture and close it."""
    settle(at_least=1.5)
    save(viewer.window.screenshot(canvas_only=False, flash=False), path)
    close(viewer)


def save(picture: Any, path: Path) -> None:
    """Write a small PNG: 256 colours are enough for a window."""
    Image.fromarray(picture).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def families(path: Path) -> None:
    """Take a picture of each kind of synthetic microscopy, two of stacks, with the truth outlined in the lower right half."""
    from skimage.color import gray2rgb
    from skimage.exposure import rescale_intensity
    from skimage.segmentation import find_boundaries

    # Seeds whose objects are neither tiny nor larger than the tile; in the order of FAMILIES, then of VOLUMES.
    flat = dict(zip(FAMILIES, (7, 8, 7, 5, 1, 1, 9, 6, 8, 7, 8), strict=True))
    deep = dict(zip(VOLUMES, (3, 1), strict=True))
    side, seen, gap, tiles = 208, slice(18, 190), 4, []
    pictures = [synthetic(np.random.default_rng(seed), (side, side), name) for name, seed in flat.items()]
    for name, seed in deep.items():
        stack, objects = synthetic_stack(np.random.default_rng(seed), (16, side, side), name)
        pictures += [(stack[z], objects[z]) for z in (5, 8)]
    for image, labels in pictures:
        values = np.asarray(image, float)
        low, high = np.percentile(values, (0.5, 99.8))
        tile = rescale_intensity(values, (low, high), (0, 255)).astype(np.uint8)
        tile = tile if tile.ndim == 3 else gray2rgb(tile)
        right = np.add.outer(np.arange(side), np.arange(side)) > side
        tile[find_boundaries(labels, mode="inner") & right] = (0, 230, 118)
        tiles.append(np.pad(tile[seen, seen], ((0, gap), (0, gap), (0, 0)), constant_values=255))
    rows = [np.hstack(tiles[start : start + 5]) for start in range(0, len(tiles), 5)]
    save(np.vstack(rows)[:-gap, :-gap], path)


def overlay(path: Path) -> None:
    """Take the picture that the headless demo leaves."""
    from napari_interformer.demo import run_headless

    with tempfile.TemporaryDirectory() as folder:
        run_headless(Path(folder))
        save(np.asarray(Image.open(Path(folder) / "overlay.png")), path)


def benchmark(data: Path) -> None:
    """Run the benchmark on dsb2018's validation images; keep the plot and the worst cases."""
    import napari_interformer as ni
    from napari_interformer.benchmark import BenchmarkConfig, run

    model = ni.load_model()
    config = BenchmarkConfig(dataset="dsb2018", split="validation", objects=10, baselines=True)
    report = run(data, model, config)
    print(report.table())
    with tempfile.TemporaryDirectory() as folder:
        report.save(folder)
        for name in ("iou-by-clicks.png", "worst.png"):
            save(np.asarray(Image.open(Path(folder) / name).convert("RGB")), IMAGES / name)


if __name__ == "__main__":
    main()
