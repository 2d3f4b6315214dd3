"""Does what a click finds depend on how large the object is? One object of every size from 10 to 3,000 pixels at a time.

`python benchmarks/sizes.py` prints the IoU after each of three simulated clicks, the level that the session worked at, and
how long a click took. The objects are the same shapes drawn larger, with edges as sharp as a microscope's at 10 pixels and
blurred in proportion from 60 pixels on; texture, noise and uneven light stay in pixels.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click
import numpy as np
from scipy.ndimage import gaussian_filter

import napari_interformer as ni
from napari_interformer.encoding import encode_tiles, room_for
from napari_interformer.geometry import Box, iou
from napari_interformer.image import Planes
from napari_interformer.options import model_option
from napari_interformer.simulate import next_click

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_interformer.model import InterFormer

SIZES = (10, 20, 40, 80, 160, 320, 640, 1280, 3000)
CLICKS = 3
LOOKED_AT = 512  # pixels around a click of which the tiles are encoded before it


def scene(diameter: int, seed: int) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Draw an object in an image one and a half times as wide, at least 256 pixels; return both."""
    rng = np.random.default_rng(seed)
    side = max(256, int(1.5 * diameter))
    y, x = np.mgrid[:side, :side].astype(np.float32) - side / 2
    angle, turn = np.arctan2(y, x), rng.uniform(0, 2 * np.pi)
    lobes = int(rng.integers(2, 5))
    truth = np.hypot(y, x) <= diameter / 2 * (0.87 + 0.13 * np.cos(lobes * angle + turn))
    light = gaussian_filter(truth.astype(np.float32), max(0.7, diameter / 60))
    mottled = 1 + 0.3 * gaussian_filter(rng.normal(size=truth.shape).astype(np.float32), 3)
    uneven = 1 + 0.2 * x / side
    noise = 0.04 * rng.normal(size=truth.shape).astype(np.float32)
    image = np.clip((0.15 + rng.uniform(0.3, 1) * light * mottled) * uneven + noise, 0, 2)
    return (20_000 * image).astype(np.uint16), truth


def attempt(model: InterFormer, diameter: int, seed: int) -> tuple[list[float], int, list[float]]:
    """Click on one object; return IoU after each click, the level, and seconds of each click."""
    image, truth = scene(diameter, seed)
    planes = Planes.of(image)
    features = room_for(planes, model)
    session = ni.Session(features, model)
    mask, found, seconds = np.zeros_like(truth), [], []
    for _ in range(CLICKS):
        place = next_click(mask, truth)
        if place is not None:
            y, x, positive = place
            box = Box(x - LOOKED_AT // 2, y - LOOKED_AT // 2, x + LOOKED_AT // 2, y + LOOKED_AT // 2)
            box = box.intersect(Box.of(planes.size))
            for _ in encode_tiles(planes, features, model, device="cpu", only=[((), box)]):
                pass
            began = time.perf_counter()
            mask = session.click((y, x), positive)
            seconds.append(time.perf_counter() - began)
        found.append(iou(mask, truth))
    return found, session.level, seconds


@click.command()
@model_option
@click.option("--objects", default=6, show_default=True, help="Objects of each size.")
def main(model: str | None, objects: int) -> None:
    """Measure, and print a table."""
    network = ni.load_model(model)
    click.echo("| pixels across | IoU, 1 click | 2 | 3 | least with 3 | level | first click | later ones |")
    click.echo("| --- | --- | --- | --- | --- | --- | --- | --- |")
    third = []
    for diameter in SIZES:
        trials = [attempt(network, diameter, seed) for seed in range(objects)]
        one, two, three = np.mean([found for found, _, _ in trials], axis=0)
        levels = sorted({level for _, level, _ in trials})
        later = [s for _, _, seconds in trials for s in seconds[1:]]
        click.echo(
            f"| {diameter} | {one:.3f} | {two:.3f} | {three:.3f} | {min(f[-1] for f, _, _ in trials):.3f} |"
            f" {', '.join(map(str, levels))} | {np.median([s[0] for _, _, s in trials]):.2f} s |"
            f" {np.median(later) if later else 0:.2f} s |"
        )
        third.append(three)
    click.echo(f"IoU after {CLICKS} clicks differs by {max(third) - min(third):.3f} between sizes.")


if __name__ == "__main__":
    main()
