"""Count the clicks that a model needs on kinds it has never seen, beside the model in the package and the baselines.

For example `python benchmarks/unseen.py without.safetensors membranes,filaments` for synthetic families, and
`python benchmarks/unseen.py without.safetensors 256x320-rgb-light --dsb2018 DSB2018` for kinds of dsb2018's validation split,
after `train --exclude` with the same kinds.
"""

from __future__ import annotations

import click
import numpy as np

import napari_interformer as ni
from napari_interformer import samples
from napari_interformer.benchmark import BenchmarkConfig, choose, measure, methods
from napari_interformer.datasets import Sample, load

SEED = 8000  # far from those of training and of other benchmarks
SIDE = 256  # pixels of a synthetic image
EACH = 5  # objects of an image


def of_family(family: str, images: int) -> list[Sample]:
    """Return images of a synthetic family."""
    pairs = (samples.synthetic(np.random.default_rng(SEED + i), (SIDE, SIDE), family) for i in range(images))
    return [Sample(f"{family} {i}", image, labels, family) for i, (image, labels) in enumerate(pairs)]


@click.command()
@click.argument("model")
@click.argument("kinds")
@click.option("--dsb2018", metavar="FOLDER", help="Where the data set is, for its kinds.")
@click.option(
    "--images",
    type=click.IntRange(min=1),
    default=12,
    show_default=True,
    help="Images of each kind, at most.",
)
def main(model: str, kinds: str, dsb2018: str | None, images: int) -> None:
    """Print a row for each of KINDS, separated by commas."""
    without, packaged = ni.load_model(model), ni.load_model()
    kept = BenchmarkConfig(split="validation")
    validation = [] if dsb2018 is None else choose(list(load("dsb2018", dsb2018)), kept)
    click.echo(
        "| kind | objects | IoU@1, without it | NoC@85, without it | model in the package | watershed | walker |"
    )
    click.echo("| --- | --- | --- | --- | --- | --- | --- |")
    for kind in map(str.strip, kinds.split(",")):
        if kind in samples.FAMILIES:
            chosen = of_family(kind, images)
        else:
            chosen = [one for one in validation if one.kind == kind][:images]
        if not chosen:
            raise click.UsageError(
                f"{kind} is no synthetic family, and no kind of {dsb2018 or 'dsb2018: give --dsb2018'}."
            )
        config = BenchmarkConfig(objects=EACH, baselines=True)
        (clicker,) = methods(BenchmarkConfig(), without).values()
        report = measure(chosen, {"without": clicker, **methods(config, packaged)}, config)
        figures = [result.summary(config) for result in report.results]
        clicks = " | ".join(f"{one['NoC@85']:.2f}" for one in figures)
        click.echo(f"| {kind} | {figures[0]['objects']:.0f} | {figures[0]['IoU@1']:.3f} | {clicks} |")


if __name__ == "__main__":
    main()
