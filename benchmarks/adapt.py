"""How many clicks does adapting save on a kind of image? Adapts on 5 and on 20 images, tests on others.

For example `python benchmarks/adapt.py bacteria` for a synthetic family, or, for a kind of dsb2018 and a model that was trained
without it, `python benchmarks/adapt.py 256x320-rgb-light --dsb2018 DSB2018 --model without.safetensors`.
"""

from __future__ import annotations

import time

import click
import numpy as np

import napari_interformer as ni
from napari_interformer import benchmark, datasets, samples
from napari_interformer.options import model_option

TESTED = 20  # images
EACH = 5  # objects of an image that is tested on


def images_of(kind: str, folder: str | None, count: int) -> list[datasets.Sample]:
    """Return images of a kind in a random order."""
    rng = np.random.default_rng(0)
    if kind in samples.FAMILIES:
        pairs = (samples.synthetic(rng, (256, 256), kind) for _ in range(count))
        return [datasets.Sample(str(i), image, labels, kind) for i, (image, labels) in enumerate(pairs)]
    if folder is None:
        raise click.UsageError(f"{kind} is no synthetic family: give --dsb2018 FOLDER.")
    everything = [one for one in datasets.load("dsb2018", folder) if one.kind == kind]
    return [everything[i] for i in rng.permutation(len(everything))]


@click.command()
@click.argument("kind")
@click.option("--dsb2018", metavar="FOLDER", help="Where the data set is, for its kinds.")
@click.option(
    "--images",
    "counts",
    multiple=True,
    default=(5, 20),
    show_default=True,
    help="To adapt on.  [can be repeated]",
)
@model_option
def main(kind: str, dsb2018: str | None, counts: tuple[int, ...], model: str | None) -> None:
    """Print a table: images adapted on, minutes, IoU@1, NoC@85, NoF@85."""
    before = ni.load_model(model)
    most = max(counts)
    chosen = images_of(kind, dsb2018, most + TESTED)
    learnt, tested = chosen[:most], chosen[most : most + TESTED]
    if not tested:
        raise click.UsageError(f"{kind} has {len(chosen)} images; adapt on fewer than that with --images.")
    config = benchmark.BenchmarkConfig(objects=EACH)
    click.echo("| kind | adapted on | objects seen | minutes | IoU@1 | NoC@85 | NoF@85 | of |")
    click.echo("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for count in (0, *counts):
        began, network, part = time.monotonic(), before, learnt[:count]
        if part:
            features = [ni.encode(one.image, before) for one in part]
            network = ni.adapt(before, features, [one.labels for one in part])
        minutes = (time.monotonic() - began) / 60
        objects = sum(len(np.unique(one.labels)) - 1 for one in part)
        report = benchmark.measure(tested, benchmark.methods(config, network), config)
        figures = report.results[0].summary(config)
        click.echo(
            f"| {kind} | {count} images | {objects} | {minutes:.1f} | {figures['IoU@1']:.3f} | "
            f"{figures['NoC@85']:.2f} | {figures['NoF@85']:.0f} | {figures['objects']:.0f} |"
        )


if __name__ == "__main__":
    main()
