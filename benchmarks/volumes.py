"""How good an object is that was carried through a stack, and how many clicks that saves.

On synthetic stacks with ground truth (`napari_interformer.samples.synthetic_stack`). The simulated user clicks on the plane
with the most wrong pixels, at the deepest point of the deeper error. Three ways to spend the same kind of clicks:

- propagate: `Session.propagate` after every click;
- copying: the mask of the nearest clicked plane on every plane of the object, whose ends are given;
- plane by plane: nothing is carried, every plane takes clicks of its own.

`python benchmarks/volumes.py` takes some minutes on two slow cores.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
import numpy as np

import napari_interformer as ni
from napari_interformer.geometry import iou
from napari_interformer.options import model_option
from napari_interformer.samples import VOLUMES, synthetic_stack
from napari_interformer.simulate import next_click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from napari_interformer.session import Session

CLICKS = 3
LEAST_PLANES = 3  # an object on fewer planes is not worth carrying
MOST_CLICKS = 40  # after which the user gives up clicking plane by plane


@dataclass(frozen=True)
class Trial:
    """One object: IoU in 3-D after 1, 2, ... clicks with every way."""

    planes: int
    first_plane: float
    propagated: list[float]
    copied: list[float]
    by_plane: list[float]
    seconds: float  # of the first time that it was carried

    def clicks_to(self, wanted: float) -> int:
        """Return how many clicks, plane by plane, reach an IoU; `MOST_CLICKS` if none do."""
        return next((n for n, value in enumerate(self.by_plane, 1) if value >= wanted), MOST_CLICKS)


def objects(family: str, seed: int, most: int) -> tuple[NDArray[np.generic], Iterator[NDArray[np.bool_]]]:
    """Return a stack, and some of its objects as (Z, Y, X) masks; drawn with the seed."""
    image, labels = synthetic_stack(np.random.default_rng(seed), family=family)
    wanted = [
        label
        for label in np.unique(labels[labels > 0])
        if (labels == label).any(axis=(1, 2)).sum() >= LEAST_PLANES
    ]
    chosen = np.random.default_rng(seed).choice(wanted, min(most, len(wanted)), replace=False)
    return image, (labels == label for label in chosen)


def worst(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[tuple[int, int, int], bool] | None:
    """Return where the user clicks next; None if nothing is wrong."""
    z = int((mask ^ truth).sum(axis=(1, 2)).argmax())
    found = next_click(mask[z], truth[z])
    return None if found is None else ((z, *found[:2]), found[2])


def copied(session: Session, truth: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the nearest clicked plane's mask on all planes of the object."""
    sources = sorted({click.plane[0] for click in session.clicks})
    there, out = session.mask, np.zeros_like(truth)
    for z in np.flatnonzero(truth.any(axis=(1, 2))):
        out[z] = there[min(sources, key=lambda source: abs(source - z))]
    return out


def attempt(session: Session, truth: NDArray[np.bool_]) -> Trial:
    """Click on one object in all ways."""
    propagated: list[float] = []
    copies: list[float] = []
    by_plane: list[float] = []
    mask, first, seconds = np.zeros_like(truth), 0.0, 0.0
    for n in range(CLICKS):
        found = worst(mask, truth)
        if found is not None:
            session.click(*found)
            if n == 0:
                z = found[0][0]
                first = iou(session.mask[z], truth[z])
            copies.append(iou(copied(session, truth), truth))
            began = time.perf_counter()
            session.propagate()
            seconds = seconds or time.perf_counter() - began
            mask = session.mask
        else:
            copies.append(copies[-1])
        propagated.append(iou(mask, truth))
    session.clear()
    planes = int(truth.any(axis=(1, 2)).sum())
    mask = np.zeros_like(truth)
    while len(by_plane) < MOST_CLICKS and (len(by_plane) < planes or max(by_plane) < max(propagated)):
        found = worst(mask, truth)
        if found is None:
            break
        session.click(*found)
        mask = session.mask
        by_plane.append(iou(mask, truth))
    session.clear()
    return Trial(planes, first, propagated, copies, by_plane, seconds)


def table(results: dict[str, list[Trial]]) -> str:
    """Return the figures as Markdown tables."""
    lines = ["| family | way | IoU, 1 click | IoU, 3 clicks |", "| --- | --- | --- | --- |"]
    for family, trials in results.items():
        for way, values in (
            ("propagate", [t.propagated for t in trials]),
            ("copying, ends given", [t.copied for t in trials]),
            ("plane by plane", [[t.by_plane[min(n, len(t.by_plane) - 1)] for n in range(3)] for t in trials]),
        ):
            one, _, three = np.mean(values, axis=0)
            lines.append(f"| {family} | {way} | {one:.3f} | {three:.3f} |")
    lines += [
        "",
        "| family | objects | planes of an object | IoU of the first plane, 1 click | median IoU of propagate, 1 and 3 clicks |"
        " IoU plane by plane, one click for each plane | clicks plane by plane as good as propagate with 1, with 3 |"
        " s per propagate, first |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for family, trials in results.items():
        median = np.median([t.propagated for t in trials], axis=0)
        each = np.mean([t.by_plane[min(t.planes, len(t.by_plane)) - 1] for t in trials])
        as_good = [np.mean([t.clicks_to(t.propagated[n]) for t in trials]) for n in (0, 2)]
        lines.append(
            f"| {family} | {len(trials)} | {np.mean([t.planes for t in trials]):.1f} |"
            f" {np.mean([t.first_plane for t in trials]):.3f} | {median[0]:.3f}, {median[2]:.3f} | {each:.3f} |"
            f" {as_good[0]:.1f}, {as_good[1]:.1f} | {np.mean([t.seconds for t in trials]):.2f} |"
        )
    return "\n".join(lines)


@click.command()
@model_option
@click.option(
    "--family", "families", multiple=True, type=click.Choice(list(VOLUMES)), help="All if left out."
)
@click.option(
    "--seeds", nargs=2, default=(100, 108), show_default=True, help="First stack, and the one after the last."
)
@click.option("--objects", "most", default=4, show_default=True, help="Objects of a stack, at most.")
def main(model: str | None, families: tuple[str, ...], seeds: tuple[int, int], most: int) -> None:
    """Measure, and print the tables."""
    square = np.random.default_rng(0).random((1757, 1757), np.float32)
    began = time.perf_counter()
    square @ square
    click.echo(f"calibration, product of 1757 x 1757 float32: {time.perf_counter() - began:.3f} s", err=True)
    network = ni.load_model(model)
    results: dict[str, list[Trial]] = {}
    for family in families or tuple(VOLUMES):
        for seed in range(*seeds):
            image, truths = objects(family, seed, most)
            session = ni.Session(ni.encode(image, network, device="cpu"), network)
            for truth in truths:
                trial = attempt(session, truth)
                results.setdefault(family, []).append(trial)
                shown = ", ".join(f"{value:.2f}" for value in trial.propagated)
                click.echo(f"{family} {seed}: {trial.planes} planes, {shown}", err=True)
    click.echo(table(results))


if __name__ == "__main__":
    main()
