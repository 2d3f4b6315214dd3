"""How many objects of an image does *find similar* find, once a person has clicked on a few? It is measured here.

    python benchmarks/similar.py --dsb2018 FOLDER                      (images that the model in the package was trained on)
    python benchmarks/similar.py --dsb2018 FOLDER --split validation   (images that it was not)

A simulated user clicks on one or three objects drawn at random, as the benchmark does, until each has an IoU of 0.8 or four
clicks, and commits them. What is found then is compared with the other objects: recall is the share of them that is found with
an IoU of 0.5 (or 0.7), precision the share of what is found that is one of them.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import click
import numpy as np
import torch

import napari_interformer as ni
from napari_interformer import datasets
from napari_interformer.benchmark import BenchmarkConfig, choose
from napari_interformer.geometry import iou
from napari_interformer.simulate import next_click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LEAST = 6  # objects in an image, or there is little to find
SMALLEST = 20  # pixels of an object that is clicked on
GOOD, MOST_CLICKS = 0.8, 4
GIVEN = (1, 3)  # objects that are clicked on


@dataclass
class Count:
    """What was found in some images."""

    images: int = 0
    others: int = 0
    found: int = 0
    overlaps: list[float] = field(default_factory=list)  # of the other objects that were found
    wrong: int = 0
    seconds: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, parts: Sequence[Count]) -> Count:
        """Return what was found in all images of some counts."""
        whole = cls()
        for part in parts:
            for one in fields(cls):
                setattr(whole, one.name, getattr(whole, one.name) + getattr(part, one.name))
        return whole

    def add(self, session: ni.Session, truth: NDArray[np.integer], given: NDArray[np.integer]) -> None:
        """Find, compare, and take it back."""
        areas = np.bincount(truth.ravel())
        began = time.perf_counter()
        labels = session.find_similar()
        self.seconds.append(time.perf_counter() - began)
        best: dict[int, float] = {}
        for label in labels:
            mask = np.asarray(session.labels) == label
            shared = np.bincount(truth[mask], minlength=len(areas))
            shared[0] = 0
            other = int(shared.argmax())
            overlap = float(shared[other] / (np.count_nonzero(mask) + areas[other] - shared[other]))
            best[other] = max(best.get(other, 0.0), overlap)
            self.wrong += overlap < 0.5
        self.images += 1
        self.others += int(np.count_nonzero(areas[1:])) - len(given)
        self.found += len(labels)
        self.overlaps += [overlap for other, overlap in best.items() if overlap >= 0.5 and other not in given]
        session.undo()

    def row(self) -> str:
        """Return the figures between the bars of a table."""
        overlaps = np.array(self.overlaps)
        recall = len(overlaps) / self.others, np.count_nonzero(overlaps >= 0.7) / self.others
        return (
            f"{self.images} | {self.others} | {recall[0]:.2f} | {recall[1]:.2f} | {1 - self.wrong / max(self.found, 1):.2f} | "
            f"{overlaps.mean() if overlaps.size else 0:.2f} | {np.median(self.seconds):.1f}"
        )


def finish(session: ni.Session, target: NDArray[np.bool_]) -> None:
    """Click on an object until it is good, and commit it."""
    for _ in range(MOST_CLICKS):
        found = next_click(session.mask, target)
        if found is None or iou(session.mask, target) >= GOOD:
            break
        session.click(found[:2], found[2])
    session.commit()


@click.command()
@click.option("--dsb2018", metavar="FOLDER", required=True, help="Where the data set is.")
@click.option("--split", type=click.Choice(["training", "validation"]), default="training", show_default=True)
@click.option("--images", default=5, show_default=True, help="Images of each kind, at most.")
def main(dsb2018: str, split: str, images: int) -> None:
    """Print a table."""
    torch.set_num_threads(1)
    model = ni.load_model()
    kinds = defaultdict(list)
    for sample in choose(list(datasets.load("dsb2018", dsb2018)), BenchmarkConfig(split=split)):
        if np.unique(sample.labels).size > LEAST:
            kinds[sample.kind].append(sample)
    counts: dict[tuple[str, int], Count] = defaultdict(Count)
    for kind in sorted(kinds):
        rng = np.random.default_rng(0)
        for number in rng.permutation(len(kinds[kind]))[:images]:
            image, truth = kinds[kind][number].image, kinds[kind][number].labels
            features = ni.encode(image, model, device="cpu")
            order = rng.permutation(np.flatnonzero(np.bincount(truth.ravel())[1:] > SMALLEST) + 1)
            for few in GIVEN:
                session = ni.Session(features, model)
                for label in order[:few]:
                    finish(session, truth == label)
                counts[kind, few].add(session, truth, order[:few])
    click.echo(
        "| images | clicked on | images | others | recall at 0.5 | at 0.7 | precision | IoU of those found | s |"
    )
    click.echo("| --- " * 9 + "|")
    for few in GIVEN:
        counts["all", few] = Count.of([count for (_, n), count in counts.items() if n == few])
    for (kind, few), count in sorted(counts.items()):
        click.echo(f"| {kind} | {few} | {count.row()} |")


if __name__ == "__main__":
    main()
