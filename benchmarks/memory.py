"""How much memory encoding and annotating takes, of a stack on disk or of one huge plane that is computed when it is read.

`python benchmarks/memory.py` encodes `--planes` of 500 planes of 1024 x 1024 from a TIFF with the model in the package, then
clicks on every fifth of them in a session whose labels lie in memory, and prints the process's largest resident size after
each part. Planes that are not encoded stay so: neither the image nor the features are ever whole in memory, so that more
planes take more time only.

`python benchmarks/memory.py --huge` does the same to a lazy plane of 20,000 x 20,000: `--tiles` of its 11,025 tiles are
encoded, those around a place somebody looks at first, and an object is clicked there as soon as its own are done.
"""

from __future__ import annotations

import itertools
import resource
import sys
import tempfile
import time
from pathlib import Path

import click
import dask.array as da
import numpy as np
import tifffile

import napari_interformer as ni
from napari_interformer.encoding import encode_tiles, room_for
from napari_interformer.geometry import Box, iou
from napari_interformer.image import Planes
from napari_interformer.options import model_option
from napari_interformer.prompts import NotEncodedError
from napari_interformer.samples import cells
from napari_interformer.simulate import next_click

PLANES, SIDE = 500, 1024
HUGE, CHUNK = 20_000, 1000


def resident() -> float:
    """Return the largest resident size so far in GB; from the system's account of this process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def stack(planes: int, model: str | None) -> None:
    """Measure on a stack."""
    image, truth = cells((SIDE, SIDE))
    with tempfile.TemporaryDirectory() as folder:
        path, store = Path(folder) / "stack.tif", Path(folder) / "stack.zarr"
        with tifffile.TiffWriter(path, bigtiff=True) as file:
            for z in range(PLANES):
                file.write(np.roll(image, 7 * z, axis=1), contiguous=True)
        network = ni.load_model(model)
        click.echo(
            f"{path.stat().st_size / 1e9:.2f} GB on disk\n\n| after | resident | took |\n| --- | --- | --- |"
        )
        click.echo(f"| starting | {resident():.2f} GB | |")
        began = time.perf_counter()
        features = ni.encode(path, network, store=store, device="cpu", planes=[(z,) for z in range(planes)])
        click.echo(
            f"| encoding {planes} planes | {resident():.2f} GB | {time.perf_counter() - began:.0f} s |"
        )
        began, done = time.perf_counter(), 0
        session = ni.Session(features, network)
        for z in range(0, planes, 5):
            for label in np.unique(truth)[1:4]:
                moved = np.roll(truth == label, 7 * z, axis=1)
                place = next_click(np.zeros_like(moved), moved)
                if place is not None:
                    session.click((z, *place[:2]))
                    session.commit()
                    done += 1
        took = time.perf_counter() - began
        click.echo(
            f"| {done} objects on {len(range(0, planes, 5))} planes | {resident():.2f} GB | {took:.0f} s |"
        )
        click.echo(f"| of which labels, int32 | {np.asarray(session.labels).nbytes / 1e9:.2f} GB | |")


def huge(tiles: int, model: str | None) -> None:
    """Measure on one plane; the features lie where `encode` puts them if nobody names a store."""
    part, truth = cells((CHUNK, CHUNK))
    image = da.map_blocks(
        lambda block_info: np.roll(part, 7 * sum(block_info[None]["chunk-location"]), axis=1),
        chunks=((CHUNK,) * (HUGE // CHUNK),) * 2,
        dtype=part.dtype,
    )
    network = ni.load_model(model)
    network.encode_pixels(np.zeros((1, 32, 32, 3), np.float32))
    click.echo("| after | resident | took |\n| --- | --- | --- |")
    click.echo(f"| starting, PyTorch and model loaded | {resident():.2f} GB | |")
    began = time.perf_counter()
    planes = Planes.of(image)
    features = room_for(planes, network)
    session = ni.Session(features, network)
    click.echo(f"| opening the image | {resident():.2f} GB | {time.perf_counter() - began:.1f} s |")

    # Somebody looks at an object in the middle, and clicks on it.
    first = HUGE // CHUNK // 2
    target = np.roll(truth, 7 * 2 * first, axis=1)
    target = target == np.argmax(np.bincount(target[target > 0]))
    place = next_click(np.zeros_like(target), target)
    assert place is not None
    y, x = first * CHUNK + place[0], first * CHUNK + place[1]
    began, clicked = time.perf_counter(), False
    looked = Box(x - 128, y - 128, x + 128, y + 128)
    steps = encode_tiles(planes, features, network, device="cpu", first=lambda: ((), looked))
    for step in itertools.islice(steps, tiles):
        if not clicked:
            try:
                session.click((y, x))
            except NotEncodedError:
                continue
            clicked = True
            box, mask = session.plane_mask()
            found = np.zeros_like(target)
            there = box.shift(-first * CHUNK, -first * CHUNK)
            inside = there.intersect(Box.of(target.shape))
            found[inside.slices] = mask[inside.shift(-there.top, -there.left).slices]
            click.echo(
                f"| a click, answered with {step.done} of {step.total} tiles, IoU {iou(found, target):.2f} "
                f"| {resident():.2f} GB | {time.perf_counter() - began:.1f} s |"
            )
            session.commit()
        if step.done in (tiles // 4, tiles // 2, tiles):
            took = time.perf_counter() - began
            click.echo(f"| encoding {step.done} tiles | {resident():.2f} GB | {took:.0f} s |")


@click.command()
@click.option("--planes", default=PLANES, show_default=True, help="How many of the 500 to encode.")
@click.option("--huge", "is_huge", is_flag=True, help="One plane of 20,000 x 20,000 instead of a stack.")
@click.option("--tiles", default=400, show_default=True, help="How many tiles of the huge plane to encode.")
@model_option
def main(planes: int, is_huge: bool, tiles: int, model: str | None) -> None:
    """Measure, and print a table."""
    if is_huge:
        huge(tiles, model)
    else:
        stack(planes, model)


if __name__ == "__main__":
    main()
