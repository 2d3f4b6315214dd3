"""How much of dsb2018's validation split shows fields that training has seen, and how good the model is on the rest.

Many of its images are tiles of one field of view, and the split is by image. Two images are taken for neighbours if the last
row or column of one goes on in the first of the other: their correlation, without slow changes, is above 0.9. The same with
one of them reversed tells how often that is chance. For example `python benchmarks/fields.py FOLDER --baselines`.
"""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import click
import numpy as np
from scipy.ndimage import uniform_filter1d

import napari_interformer as ni
from napari_interformer.benchmark import BenchmarkConfig, measure, methods
from napari_interformer.datasets import VALIDATION, load, split
from napari_interformer.options import model_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_interformer.datasets import Sample

ALIKE = 0.9
SLOW = 31  # pixels over which brightness changes slowly
FLAT = 1.0  # standard deviation below which an edge says nothing


def edges(sample: Sample) -> dict[str, NDArray[np.float64]]:
    """Return the four edges of an image, without slow changes and of length 1; zeros if there is nothing to see."""
    pixels = np.asarray(sample.image, float)
    grey = pixels if pixels.ndim == 2 else pixels.mean(axis=2)
    found = {}
    for name, edge in {"left": grey[:, 0], "right": grey[:, -1], "top": grey[0], "bottom": grey[-1]}.items():
        sharp = edge - uniform_filter1d(edge, SLOW, mode="nearest")
        found[name] = sharp / np.linalg.norm(sharp) if sharp.std() > FLAT else 0 * sharp
    return found


def neighbours(
    seen: Sequence[tuple[Sample, dict[str, NDArray[np.float64]]]], *, reverse: bool = False
) -> set[tuple[str, str]]:
    """Return the names of the images that lie beside each other, by their edges, each pair in both orders."""
    pairs = set()
    for (one, first), (other, second) in permutations(seen, 2):
        if one.kind != other.kind:
            continue
        for here, there in (("right", "left"), ("bottom", "top")):
            begin = second[there][::-1] if reverse else second[there]
            if first[here].size == begin.size and first[here] @ begin > ALIKE:
                pairs |= {(one.name, other.name), (other.name, one.name)}
    return pairs


@click.command()
@click.argument("folder")
@click.option("--objects", default=10, show_default=True, help="Objects of each image, at most.")
@model_option
@click.option("--baselines", is_flag=True, help="Also seeded watershed and random walker.")
def main(folder: str, objects: int, model: str | None, baselines: bool) -> None:
    """Print how many images are linked, and the figures of both parts."""
    everything = list(load("dsb2018", folder))
    training, validation = split(everything, fraction=VALIDATION)
    trained = {sample.name for sample in training}
    edged = [(sample, edges(sample)) for sample in everything]
    links = {chance: neighbours(edged, reverse=chance) for chance in (False, True)}
    linked = {chance: {a for a, b in pairs if b in trained} for chance, pairs in links.items()}
    for kind in sorted({sample.kind for sample in validation}):
        names = {sample.name for sample in validation if sample.kind == kind}
        seen, chance = (len(names & linked[reverse]) for reverse in (False, True))
        click.echo(
            f"{kind:22} {len(names):3} images, {seen:3} beside one that is trained on (by chance {chance})"
        )
    config = BenchmarkConfig(dataset="dsb2018", objects=objects, baselines=baselines)
    parts = {
        "beside one that is trained on": [one for one in validation if one.name in linked[False]],
        "beside none": [one for one in validation if one.name not in linked[False]],
    }
    network = ni.load_model(model)
    for name, samples in parts.items():
        report = measure(samples, methods(config, network), config)
        click.echo(f"\n{name}, {len(samples)} images\n{report.table()}")


if __name__ == "__main__":
    main()
