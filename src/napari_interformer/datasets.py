"""Images with reference labels, one function per data set: `root -> Iterator[Sample]`."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tifffile
from skimage.io import imread

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and its objects.

    Attributes
    ----------
    name : str
        Of the image.
    image : (Y, X) or (Y, X, 3)
        As stored.
    labels : (Y, X) int
        0 is background.
    kind : str
        What sort of image; figures are reported apart.
    ignore : (Y, X) bool, optional
        Pixels that count for nothing.
    """

    name: str
    image: NDArray[np.generic]
    labels: NDArray[np.integer]
    kind: str = ""
    ignore: NDArray[np.bool_] | None = None


def split(
    samples: Sequence[Sample], *, fraction: float = 0.2, seed: int = 0
) -> tuple[list[Sample], list[Sample]]:
    """Split into training and validation samples, kind by kind.

    Each kind gives `round(fraction * count)` of its samples, drawn with `seed` from the names in order, so the
    split depends on names and kinds alone.
    """
    chosen: set[str] = set()
    rng = np.random.default_rng(seed)
    for kind in sorted({sample.kind for sample in samples}):
        names = sorted(sample.name for sample in samples if sample.kind == kind)
        chosen.update(rng.permutation(names)[: round(fraction * len(names))])
    return [s for s in samples if s.name not in chosen], [s for s in samples if s.name in chosen]


def folder(root: str | Path) -> Iterator[Sample]:
    """Read `images/` and `labels/` below `root`, TIFF or PNG, matched by name."""
    root = Path(root)
    images, labels = (
        {p.stem: p for p in sorted((root / name).glob("*")) if p.is_file()} for name in ("images", "labels")
    )
    if not images or images.keys() - labels.keys():
        raise ValueError(
            f"A folder of images takes images/ and labels/ with a label image of the same name for each image; got "
            f"{len(images)} images, {len(images.keys() & labels.keys())} of them with labels."
        )
    for name, path in images.items():
        yield Sample(name, read(path), read(labels[name]))


def dsb2018(root: str | Path) -> Iterator[Sample]:
    """Read the 2018 Data Science Bowl's stage-1 images with their kinds (`index.csv`)."""
    root = Path(root)
    with (root / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        name = f"{row['name']}.tif"
        yield Sample(row["name"], read(root / "images" / name), read(root / "labels" / name), row["kind"])


def read(path: Path) -> NDArray[np.generic]:
    """Read one TIFF or PNG."""
    return np.asarray(tifffile.imread(path) if path.suffix.lower() in (".tif", ".tiff") else imread(path))


DATASETS = {"folder": folder, "dsb2018": dsb2018}
