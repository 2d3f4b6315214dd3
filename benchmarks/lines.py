"""What is a line worth, beside a click? A simulated user corrects the larger error either way.

    python benchmarks/lines.py filaments bacteria membranes
    python benchmarks/lines.py --dsb2018 FOLDER        (images that the model in the package was trained on)
    python benchmarks/lines.py --dsb2018 FOLDER --split validation        (images that it was not)

A click lands at the deepest pixel of an error, as in the benchmark; a line goes through its deepest pixels, from end to end of
its skeleton, but for a share that is left out at both ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, label
from skimage.graph import route_through_array
from skimage.morphology import skeletonize

import napari_interformer as ni
from napari_interformer import datasets, samples
from napari_interformer.benchmark import BenchmarkConfig, choose
from napari_interformer.geometry import iou
from napari_interformer.prompts import Click, Scribble
from napari_interformer.simulate import next_click

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from napari_interformer.prompts import Mark

PROMPTS = 4
LENGTH = 0.7  # of an error, that a line goes through
EVERY = 6  # pixels between the points of a line
WAYS = {  # the first prompt, and all others
    "clicks": (False, False),
    "a line, then clicks": (True, False),
    "lines": (True, True),
    "a click, then lines": (False, True),
}


def next_line(mask: NDArray[np.bool_], target: NDArray[np.bool_]) -> Scribble | None:
    """Return a line through the deeper of the two error regions; None if there is none."""
    found = next_click(mask, target)
    if found is None:
        return None
    y, x, positive = found
    parts, _ = label(target & ~mask if positive else mask & ~target, np.ones((3, 3)))
    region = parts == parts[y, x]
    ends = np.argwhere(skeletonize(region))
    if len(ends) < 2:
        return Scribble((), ((y, x),), positive)
    first = ends[np.square(ends - ends.mean(0)).sum(1).argmax()]
    last = ends[np.square(ends - first).sum(1).argmax()]
    depths = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    route, _ = route_through_array(np.where(region, 1 / (depths + 0.1), 1e6), first, last)
    left_out = int(len(route) * (1 - LENGTH) / 2)
    route = route[left_out : len(route) - left_out]
    return Scribble.along([*route[::EVERY], route[-1]], positive)


def next_mark(mask: NDArray[np.bool_], target: NDArray[np.bool_], line: bool) -> Mark | None:
    """Return what the user says next."""
    if line:
        return next_line(mask, target)
    found = next_click(mask, target)
    return None if found is None else Click.at(found[:2], found[2])


def overlaps(session: ni.Session, target: NDArray[np.bool_], way: tuple[bool, bool]) -> list[float]:
    """Return IoU after each prompt."""
    found = []
    for number in range(PROMPTS):
        mark = next_mark(session.mask, target, way[number > 0])
        if mark is not None:
            session.set_prompts((*session.prompts, mark))
        found.append(iou(session.mask, target))
    session.clear()
    return found


def pictures(
    families: Sequence[str], dsb2018: str | None, split: str, images: int
) -> Iterator[tuple[str, NDArray[np.generic], NDArray[np.integer]]]:
    """Yield what an image shows, the image and its labels."""
    for family in families:
        for seed in range(images):
            yield family, *samples.synthetic(np.random.default_rng(1000 + seed), (320, 320), family)
    if dsb2018 is not None:
        chosen = choose(list(datasets.load("dsb2018", dsb2018)), BenchmarkConfig(split=split))
        for number in np.random.default_rng(0).permutation(len(chosen))[:images]:
            yield f"dsb2018, {split}", chosen[number].image, chosen[number].labels


@click.command()
@click.argument("families", nargs=-1, type=click.Choice(list(samples.FAMILIES)))
@click.option("--dsb2018", metavar="FOLDER", help="Where the data set is.")
@click.option("--split", type=click.Choice(["training", "validation"]), default="training", show_default=True)
@click.option("--images", default=12, show_default=True, help="Images of each kind, at most.")
@click.option("--objects", default=5, show_default=True, help="Objects of each image, at most.")
def main(families: tuple[str, ...], dsb2018: str | None, split: str, images: int, objects: int) -> None:
    """Print a row for each of FAMILIES, of synthetic images, and for the data set."""
    torch.set_num_threads(1)
    model = ni.load_model()
    found: dict[tuple[str, str], list[list[float]]] = {}
    for kind, image, labels in pictures(families, dsb2018, split, images):
        session = ni.Session(ni.encode(image, model, device="cpu"), model)
        areas = np.bincount(labels.ravel())
        areas[0] = 0
        for number in np.random.default_rng(0).permutation(np.flatnonzero(areas > 60))[:objects]:
            for way, lines in WAYS.items():
                found.setdefault((kind, way), []).append(overlaps(session, labels == number, lines))
    click.echo(f"| images | way | objects | {' | '.join(f'IoU@{n + 1}' for n in range(PROMPTS))} |")
    click.echo("| --- " * (3 + PROMPTS) + "|")
    for (kind, way), rows in found.items():
        click.echo(
            f"| {kind} | {way} | {len(rows)} | {' | '.join(f'{mean:.3f}' for mean in np.mean(rows, 0))} |"
        )


if __name__ == "__main__":
    main()
