"""How fast are clicks and encoding, beside what the processor can do? Every figure has a calibration in the same run.

The calibration is one float32 matrix product of 1757 x 1757: as many operations as one click of InterFormer-Light at 512x512,
10.84 GFLOP, by PyTorch. It is taken in turn with what is measured, since a machine's pace drifts. NumPy's product stands
beside it, as PyTorch's is slow on some processors: so ratios can be compared between machines of one kind alone.

`--json FILE` keeps the figures under the processor's name, beside those of other processors in that file;
`--check benchmarks/baseline.json` fails where a ratio is more than a quarter over that of the same processor.
"""

from __future__ import annotations

import functools
import itertools
import json
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import torch

import napari_interformer as ni
from napari_interformer.encoding import encode_tiles, room_for
from napari_interformer.geometry import Box
from napari_interformer.image import Planes
from napari_interformer.model import PRESETS, InterFormer
from napari_interformer.reference import blank, draw_click
from napari_interformer.samples import cells
from napari_interformer.simulate import next_click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIDE = 1757
OBJECTS = 8  # more than a session remembers the windows of
TOLERATED = 1.25
CALIBRATION = torch.randn(SIDE, SIDE)


def timed(action: Callable[[], object]) -> float:
    """Return milliseconds."""
    began = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - began)


def measure(actions: dict[str, Callable[[], object]], repeats: int) -> dict[str, dict[str, float]]:
    """Return each action's median and 95th percentile in milliseconds, and both relative to the calibration's median.

    The actions take turns, so that they can be compared with each other.
    """
    for action in actions.values():
        action()
    rounds = [
        [timed(lambda: CALIBRATION @ CALIBRATION), *(timed(action) for action in actions.values())]
        for _ in range(repeats + 1)
    ]
    calibration, *taken = np.array(rounds[1:]).T
    pace = float(np.median(calibration))
    rows = {}
    for name, times in zip(actions, taken, strict=True):
        p50, p95 = (float(value) for value in np.percentile(times, (50, 95)))
        rows[name] = {
            "p50": p50,
            "p95": p95,
            "ratio": p50 / pace,
            "ratio_p95": p95 / pace,
            "calibration": pace,
        }
    return rows


def decode(preset: str, side: int) -> Callable[[], object]:
    """Return one click of a preset: logits of a whole square from what is prepared."""
    model = InterFormer(PRESETS[preset]).eval()
    rng = np.random.default_rng(0)
    maps = [
        rng.normal(size=(c, side // s, side // s)).astype(np.float32)
        for c, s in zip(model.channels, model.strides, strict=True)
    ]
    prepared = model.prepare_maps(maps)
    reference = draw_click(blank((side, side)), side // 2, side // 2, True, model.config.inner_radius)
    return lambda: model.decode_logits(prepared, reference)


def encode(preset: str, side: int) -> Callable[[], object]:
    """Return the encoding of a square at once, as the reference does."""
    model = InterFormer(PRESETS[preset]).eval()
    pixels = np.random.default_rng(0).random((1, side, side, 3), np.float32) * 255
    return lambda: model.encode_pixels(pixels)


def encode_bundled() -> Callable[[], object]:
    """Return the encoding of 512x512 by the bundled model, tiles and store in memory included."""
    model, image = ni.load_model(), cells()[0]
    return lambda: ni.encode(image, model, device="cpu")


def first_click(image: np.ndarray, folder: str, name: str) -> Callable[[], object]:
    """Return the first click on another object each time, in a session that paints; features and labels are on disk."""
    model, planes = ni.load_model(), Planes.of(image, contrast=(0, 40_000))
    features = room_for(planes, model, store=Path(folder) / name)
    truth = cells()[1]
    corner = Box.of((truth.shape[0], truth.shape[1]))
    plane = tuple(n // 2 for n in planes.leading)
    for _ in encode_tiles(planes, features, model, device="cpu", only=[(plane, corner)]):
        pass
    nothing = np.zeros(truth.shape, bool)
    places = [next_click(nothing, truth == label) for label in np.unique(truth)[1 : 1 + OBJECTS]]
    objects = itertools.cycle(place for place in places if place is not None)
    session = ni.Session(features, model, labels=_labels(features.shape, folder, name), live=True)

    def clicked() -> None:
        session.clear()
        y, x, _ = next(objects)
        session.click((*plane, y, x))

    return clicked


def _labels(shape: tuple[int, ...], folder: str, name: str) -> np.ndarray:
    """Return labels on disk, so that what is not touched costs nothing."""
    return np.lib.format.open_memmap(f"{folder}/{name}.npy", "w+", np.int32, shape)


def starts() -> dict[str, dict[str, float]]:
    """Time the import in fresh interpreters."""
    command = (
        "import time; t = time.perf_counter(); import napari_interformer; print(time.perf_counter() - t)"
    )
    taken = [
        1000
        * float(
            subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout
        )
        for _ in range(5)
    ]
    p50, p95 = np.percentile(taken, (50, 95))
    return {"import napari_interformer": {"p50": float(p50), "p95": float(p95)}}


def processor() -> str:
    """Return what tells one kind of processor from another, and the number of threads."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not on Linux
        known = platform.processor() or platform.machine()
    else:
        told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        names = ("vendor_id", "cpu family", "model")
        known = " ".join(told.get(name, "?") for name in names) if "vendor_id" in told else platform.machine()
    return f"{known}, {torch.get_num_threads()} threads"


def keep(path: Path, rows: dict[str, dict[str, float]]) -> None:
    """Put this processor's figures into a file, each in the place of an older one."""
    figures = json.loads(path.read_text()) if path.exists() else {}
    before = figures.get(processor(), {"rows": {}})["rows"]
    figures[processor()] = {"torch": torch.__version__, "rows": before | rows}
    path.write_text(json.dumps(figures, indent=1) + "\n")


def check(path: Path, rows: dict[str, dict[str, float]]) -> None:
    """Exit with 1 where a ratio is more than a quarter over that of the same processor in a file, or if it has none."""
    figures = json.loads(path.read_text())
    if processor() not in figures:
        sys.exit(
            f"{path.name} has figures of {'; '.join(figures)}, not of this processor ({processor()}): measure the commit to "
            f"compare with here, with --json {path}, and check again."
        )
    usual = figures[processor()]["rows"]
    slower = [
        f"{name}: {row['ratio']:.2f} times the calibration, {usual[name]['ratio']:.2f} in {path.name}"
        for name, row in rows.items()
        if name in usual and row["ratio"] > TOLERATED * usual[name]["ratio"]
    ]
    if slower:
        sys.exit("Slower by more than a quarter:\n" + "\n".join(slower))
    click.echo(f"No ratio is more than a quarter over {path.name}'s.")


@contextmanager
def others(count: int) -> Iterator[None]:
    """Keep so many cores busy."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()


@click.command()
@click.option("--json", "kept", type=click.Path(path_type=Path), help="File to keep the figures in.")
@click.option("--check", "usual", type=click.Path(path_type=Path), help="File to compare with.")
@click.option("--only", default="", help="Measure what has this in its name.")
@click.option("--beside", default=0, help="So many other programs compute meanwhile.")
def main(kept: Path | None, usual: Path | None, only: str, beside: int) -> None:
    """Measure everything and print a table."""
    if beside and (kept or usual):
        raise click.UsageError("--beside slows the calibration down, too: leave out --json and --check.")
    image = cells()[0]
    with tempfile.TemporaryDirectory() as folder, others(beside):
        sizes = {
            "512x512": image,
            "4096x4096": np.tile(image, (8, 8)),
            "20000x20000": np.tile(image, (40, 40))[:20_000, :20_000],
            "100 planes": np.broadcast_to(image, (100, *image.shape)),
            "1000 planes": np.broadcast_to(image, (1000, *image.shape)),
        }
        plan: list[tuple[int, dict[str, Callable[[], Callable[[], object]]]]] = [
            (20, {"matrix product, NumPy": lambda: lambda: CALIBRATION.numpy() @ CALIBRATION.numpy()}),
            (30, {"click, Light, 512x512": lambda: decode("light", 512)}),
            (20, {"click, Tiny, 512x512": lambda: decode("tiny", 512)}),
            (
                40,
                {
                    f"click, bundled, {name}": functools.partial(first_click, pixels, folder, name)
                    for name, pixels in sizes.items()
                },
            ),
            (5, {"encode, bundled, 512x512": encode_bundled}),
            (4, {"encode, Light, 512x512": lambda: encode("light", 512)}),
            (2, {"encode, Light, 1024x1024": lambda: encode("light", 1024)}),
        ]
        rows: dict[str, dict[str, float]] = {}
        click.echo(f"{processor()}, PyTorch {torch.__version__}")
        click.echo(
            "| what | p50 | p95 | ratio | ratio p95 | calibration |\n| --- | --- | --- | --- | --- | --- |"
        )
        for repeats, group in plan:
            made = {name: make() for name, make in group.items() if only in name}
            for name, row in measure(made, repeats).items() if made else ():
                rows[name] = row
                click.echo(
                    f"| {name} | {row['p50']:.1f} ms | {row['p95']:.1f} ms | {row['ratio']:.2f} | {row['ratio_p95']:.2f} | "
                    f"{row['calibration']:.1f} ms |",
                )
        for name, row in starts().items():
            click.echo(f"| {name} | {row['p50']:.1f} ms | {row['p95']:.1f} ms | | | |")
    if kept:
        keep(kept, rows)
    if usual:
        check(usual, rows)


if __name__ == "__main__":
    main()
