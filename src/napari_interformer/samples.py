"""Images that nobody had to draw: synthetic microscopy with its ground truth.

Deterministic by seed, some tens of milliseconds per image. For training, for the two samples of the *Open Sample*
menu, and for tests. `families.py` has what is drawn from.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter

from napari_interformer.families import FAMILIES, VOLUMES, paint
from napari_interformer.optics import clouds
from napari_interformer.shapes import scatter

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    Image = NDArray[np.generic]
    Labels = NDArray[np.int32]

__all__ = [
    "FAMILIES",
    "VOLUMES",
    "cells",
    "cells_sample",
    "nuclei_sample",
    "nuclei_stack",
    "synthetic",
    "synthetic_stack",
]


def synthetic(
    rng: np.random.Generator | int,
    size: tuple[int, int] = (256, 256),
    family: str | None = None,
    *,
    exclude: Collection[str] = (),
) -> tuple[Image, Labels]:
    """Make one image.

    Objects are 8 to 500 pixels across, log-uniform from image to image, and no larger than the image.

    Parameters
    ----------
    rng : numpy.random.Generator or int
        Same state or seed, same image.
    size : (int, int)
        Y and X in pixels.
    family : str, optional
        One of `FAMILIES`; drawn if None.
    exclude : str or collection of str
        Families that are not drawn: hold one out of training to see how well a model does without it.

    Returns
    -------
    image : (Y, X) or (Y, X, 3), uint8 or uint16
    labels : (Y, X) int32
        0 is background; each object is one connected piece (but for a thread that others cross).

    Raises
    ------
    ValueError
        If there is no such family, none is left, or the size is not two numbers above 0.
    """
    return _drawn(FAMILIES, rng, size, 2, family, exclude)


def synthetic_stack(
    rng: np.random.Generator | int,
    size: tuple[int, int, int] = (24, 128, 128),
    family: str | None = None,
    *,
    exclude: Collection[str] = (),
) -> tuple[Image, Labels]:
    """Make one stack, of `VOLUMES`; otherwise as `synthetic`.

    Planes are one to five times as far apart as pixels.

    Returns
    -------
    image : (Z, Y, X) uint8 or uint16
    labels : (Z, Y, X) int32
        0 is background; an object has the same number in all its planes, and is one connected piece.
    """
    return _drawn(VOLUMES, rng, size, 3, family, exclude)


def _drawn(
    families: dict[str, Any],
    rng: np.random.Generator | int,
    size: Sequence[int],
    axes: int,
    family: str | None,
    exclude: Collection[str],
) -> tuple[Image, Labels]:
    """Make an image of the family asked for, or of one that is drawn."""
    if len(size) != axes or not all(length >= 1 for length in size):
        raise ValueError(f"size takes {axes} lengths in pixels, from 1; got {size!r}.")
    rng = np.random.default_rng(rng)
    exclude = [exclude] if isinstance(exclude, str) else exclude
    unknown = [name for name in (*exclude, *([family] if family else [])) if name not in families]
    if unknown:
        raise ValueError(f"family takes one of {', '.join(families)}; got {unknown[0]!r}.")
    if family is None:
        left = [name for name in families if name not in exclude]
        if not left:
            raise ValueError(f"exclude leaves none of {', '.join(families)}; leave at least one.")
        family = str(rng.choice(left))
    made: tuple[Image, Labels] = families[family](rng, tuple(size))
    return made


def cells(shape: tuple[int, int] = (512, 512), seed: int = 0) -> tuple[NDArray[np.uint16], Labels]:
    """Return the sample of the menu: a field of fluorescent nuclei, some touching, with noise and haze.

    Returns
    -------
    image : (Y, X) uint16
    labels : (Y, X) int32
        The ground truth.
    """
    rng = np.random.default_rng(seed)
    labels = scatter(rng, shape, (9, 17), 0.28, roughness=0.12, overlap=0.1)
    brightness = np.exp(rng.normal(0, 0.3, int(labels.max()) + 1))
    brightness[0] = 0
    signal = paint(labels, brightness) * np.clip(1 + 0.18 * clouds(rng, shape, 5, smooth=False), 0.2, None)
    signal = gaussian_filter(signal, 1.2)
    signal += 0.25 * gaussian_filter(signal, 20) + 0.05
    counts = rng.poisson(signal * 120) / 120 + rng.normal(0, 0.01, shape)
    return np.asarray(np.clip(counts * 9_000 + 300, 0, 65_535), np.uint16), labels


def nuclei_stack(
    shape: tuple[int, int, int] = (24, 256, 256), seed: int = 0
) -> tuple[NDArray[np.uint16], Labels]:
    """Return the 3-D sample of the menu: ellipsoidal nuclei in a stack, blurred more along Z than across.

    Returns
    -------
    image : (Z, Y, X) uint16
    labels : (Z, Y, X) int32
        The ground truth.
    """
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    count = max(3, round(0.9e-4 * np.prod(shape) * 0.4))
    brightness = [0.0]
    for _ in range(20 * count):
        radii = rng.uniform((3, 9, 9), (6, 16, 16))
        centre = rng.uniform(0, 1, 3) * shape
        near = tuple(slice(max(0, int(c - r)), int(c + r) + 2) for c, r in zip(centre, radii, strict=True))
        axes = (z[near[0]], y[:, near[1]], x[:, :, near[2]])
        parts = [((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True)]
        mask = parts[0] + parts[1] + parts[2] <= 1
        field = labels[near]
        if not mask.any() or np.count_nonzero(field[mask]) > 0.05 * mask.sum():
            continue
        field[mask & (field == 0)] = len(brightness)
        brightness.append(math.exp(rng.normal(0, 0.25)))
        if len(brightness) > count:
            break
    signal = paint(labels, np.array(brightness))
    signal *= np.clip(
        1 + 0.15 * np.stack([clouds(rng, shape[1:], 4, smooth=False) for _ in range(shape[0])]), 0.2, None
    )
    signal = gaussian_filter(signal, (0.7, 1.0, 1.0))
    signal += 0.15 * gaussian_filter(signal, (2, 12, 12)) + 0.05
    counts = rng.poisson(signal * 100) / 100 + rng.normal(0, 0.01, shape)
    return np.asarray(np.clip(counts * 9_000 + 300, 0, 65_535), np.uint16), labels


def cells_sample() -> list[tuple[Any, dict[str, Any], str]]:
    """Return the 2-D sample for File > Open Sample: an image, and its ground truth, hidden."""
    image, truth = cells()
    return [(image, {"name": "cells"}, "image"), (truth, {"name": "cells truth", "visible": False}, "labels")]


def nuclei_sample() -> list[tuple[Any, dict[str, Any], str]]:
    """Return the 3-D sample for File > Open Sample: planes lie twice as far apart as pixels."""
    image, truth = nuclei_stack()
    place = {"scale": (2.0, 1.0, 1.0)}
    return [
        (image, {"name": "nuclei", **place}, "image"),
        (truth, {"name": "nuclei truth", "visible": False, **place}, "labels"),
    ]
