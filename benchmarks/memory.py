"""How much memory encoding and annotating a stack takes: 500 planes of 1024 x 1024 from a TIFF on disk.

`python benchmarks/memory.py` encodes `--planes` planes with the model in the package, then clicks on every fifth of them in
a session whose labels lie in memory, and prints the process's largest resident size after each part. Planes that are not
encoded stay so: neither the image nor the features are ever whole in memory, so that more planes take more time only.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import tifffile

import napari_interformer as ni
from napari_interformer.samples import cells
from napari_interformer.simulate import next_click

PLANES, SIDE = 500, 1024


def resident() -> float:
    """Return the largest resident size so far in GB; from the system's account of this process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


@click.command()
@click.option("--planes", default=PLANES, show_default=True, help="How many of the 500 to encode.")
@click.option("--model", default=None, help="A model file; the one in the package if left out.")
def main(planes: int, model: str | None) -> None:
    """Measure, and print a table."""
    image, truth = cells((SIDE, SIDE))
    with tempfile.TemporaryDirectory() as folder:
        stack, store = Path(folder) / "stack.tif", Path(folder) / "stack.zarr"
        with tifffile.TiffWriter(stack, bigtiff=True) as file:
            for z in range(PLANES):
                file.write(np.roll(image, 7 * z, axis=1), contiguous=True)
        network = ni.load_model(model)
        click.echo(
            f"{stack.stat().st_size / 1e9:.2f} GB on disk\n\n| after | resident | took |\n| --- | --- | --- |"
        )
        click.echo(f"| starting | {resident():.2f} GB | |")
        began = time.perf_counter()
        features = ni.encode(stack, network, store=store, device="cpu", planes=[(z,) for z in range(planes)])
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
        click.echo(f"| of which labels, int32 | {session.labels.nbytes / 1e9:.2f} GB | |")


if __name__ == "__main__":
    main()
