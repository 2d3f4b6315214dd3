"""Images that nobody had to draw: synthetic microscopy with its ground truth.

Deterministic by seed, a few milliseconds per image. For training, for the two samples of the *Open Sample* menu,
and for tests. Each family is one function `(rng, size) -> (image, labels)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter, zoom
from scipy.spatial import cKDTree

from napari_interformer.prompts import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.generic]
    Labels = NDArray[np.int32]
    Size = tuple[int, int]

Family = Callable[[np.random.Generator, tuple[int, int]], "tuple[Image, Labels]"]


def synthetic(
    rng: np.random.Generator, size: tuple[int, int] = (256, 256), family: str | None = None
) -> tuple[Image, Labels]:
    """Make one image.

    Parameters
    ----------
    rng : numpy.random.Generator
        Same state, same image.
    size : (int, int)
        Y and X in pixels.
    family : str, optional
        One of `FAMILIES`; drawn if None.

    Returns
    -------
    image : (Y, X) or (Y, X, 3), uint8 or uint16
    labels : (Y, X) int32
        0 is background.
    """
    if family is None:
        family = str(rng.choice(list(FAMILIES)))
    if family not in FAMILIES:
        raise ValueError(f"family takes one of {', '.join(FAMILIES)}; got {family!r}.")
    return FAMILIES[family](rng, size)


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
    signal = paint(labels, brightness) * np.clip(1 + 0.18 * clouds(rng, shape, 5), 0.2, None)
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
    signal *= np.clip(1 + 0.15 * np.stack([clouds(rng, shape[1:], 4) for _ in range(shape[0])]), 0.2, None)
    signal = gaussian_filter(signal, (0.7, 1.0, 1.0))
    signal += 0.15 * gaussian_filter(signal, (2, 12, 12)) + 0.05
    counts = rng.poisson(signal * 100) / 100 + rng.normal(0, 0.01, shape)
    return np.asarray(np.clip(counts * 9_000 + 300, 0, 65_535), np.uint16), labels


# ------------------------------------------------------------------------------------- building blocks


def shape_of(rng: np.random.Generator, radius: float, roughness: float = 0.12) -> NDArray[np.bool_]:
    """Return one smooth, roundish object of about `radius` pixels, in an array of its own box."""
    reach = math.ceil(radius * 2.2)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    turn, stretch = rng.uniform(0, math.pi), math.exp(rng.normal(0, 0.2))
    u = (x * math.cos(turn) + y * math.sin(turn)) * stretch
    v = (y * math.cos(turn) - x * math.sin(turn)) / stretch
    angle = np.arctan2(v, u)
    outline = np.full_like(u, radius)
    for harmonic in range(2, 6):
        amplitude = radius * rng.normal(0, roughness / harmonic)
        outline += amplitude * np.cos(harmonic * angle + rng.uniform(0, 2 * math.pi))
    inside = u**2 + v**2 <= np.maximum(outline, 1) ** 2
    return np.asarray(inside[Box.around(inside).slices])


def scatter(
    rng: np.random.Generator,
    size: Size,
    radius: tuple[float, float],
    cover: float,
    *,
    roughness: float = 0.12,
    above: bool = False,
    overlap: float = 0.25,
) -> Labels:
    """Fill a field with objects until they cover a share of it.

    Objects whose share under earlier ones exceeds `overlap` are dropped; what remains lies below them, or
    `above` them. Touching neighbours are the rule.
    """
    labels = np.zeros(size, np.int32)
    label, covered = 0, 0
    for _ in range(600):
        if covered >= cover * labels.size:
            break
        r = math.exp(rng.uniform(*np.log(radius)))
        mask = shape_of(rng, r, roughness)
        h, w = mask.shape
        top, left = int(rng.integers(-h // 2, size[0] - h // 2)), int(rng.integers(-w // 2, size[1] - w // 2))
        box = Box(left, top, left + w, top + h)
        seen = box.intersect(Box.of(size))
        if seen.empty:
            continue
        part = mask[seen.shift(-top, -left).slices]
        field = labels[seen.slices]
        hidden = np.count_nonzero(part & (field > 0))
        if part.sum() < 8 or (not above and hidden > overlap * part.sum()):
            continue
        label += 1
        visible = part if above else part & (field == 0)
        field[visible] = label
        covered += int(visible.sum())
    return labels


def clouds(rng: np.random.Generator, size: Size, scale: float) -> NDArray[np.float32]:
    """Return smooth random values with zero mean and unit deviation, varying over `scale` pixels."""
    coarse = [max(3, math.ceil(n / max(scale, 1)) + 3) for n in size]
    field = rng.standard_normal(coarse).astype(np.float32)
    field = zoom(field, [(n + 2 * scale) / c for n, c in zip(size, coarse, strict=True)], order=1)
    top, left = (int(rng.integers(0, max(1, f - n))) for f, n in zip(field.shape, size, strict=True))
    field = field[top : top + size[0], left : left + size[1]]
    return np.asarray((field - field.mean()) / (field.std() + 1e-6), np.float32)


def paint(labels: Labels, values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Give every object its value: `values[0]` is the background's."""
    return np.asarray(values[labels], np.float32)


def outlines(labels: Labels) -> NDArray[np.bool_]:
    """Return the pixels (Y, X) of objects that touch another label."""
    edge = np.zeros(labels.shape, bool)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:-1] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    return edge


def camera(
    rng: np.random.Generator, signal: NDArray[np.floating], *, photons: tuple[float, float] = (20, 400)
) -> Image:
    """Record a signal of about 0..1: uneven light, shot and read noise, 8 or 16 bits."""
    size = signal.shape[:2]
    light = np.clip(1 + rng.uniform(0, 0.2) * clouds(rng, size, max(size) / 2), 0.3, None)
    light = light if signal.ndim == 2 else light[..., None]
    full = math.exp(rng.uniform(*np.log(photons)))
    counts = rng.poisson(np.clip(signal * light, 0, 2) * full) / full
    counts = counts + rng.normal(0, rng.uniform(0.002, 0.02), signal.shape)
    if signal.ndim == 3 or rng.random() < 0.6:
        return np.asarray(np.clip(counts * 230 + 5, 0, 255), np.uint8)
    return np.asarray(np.clip(counts * rng.uniform(1_500, 40_000) + 100, 0, 65_535), np.uint16)


# -------------------------------------------------------------------------------------------- families


def nuclei(rng: np.random.Generator, size: Size) -> tuple[Image, Labels]:
    """Fluorescent nuclei: bright, textured, touching, some out of focus, over a haze."""
    mean = math.exp(rng.uniform(math.log(4), math.log(28)))
    labels = scatter(
        rng, size, (mean * 0.7, mean * 1.4), rng.uniform(0.05, 0.5), roughness=rng.uniform(0.05, 0.2)
    )
    count = int(labels.max()) + 1
    brightness = np.exp(rng.normal(0, rng.uniform(0.1, 0.6), count))
    brightness[0] = 0
    signal = paint(labels, brightness)
    texture = 1 + rng.uniform(0.05, 0.3) * clouds(rng, size, mean * rng.uniform(0.3, 0.8))
    dome = np.sqrt(np.minimum(distance_transform_edt(~outlines(labels)), mean) / mean)
    signal = signal * np.clip(texture, 0.2, None) * (1 - rng.uniform(0, 0.6) * (1 - dome))
    signal = gaussian_filter(signal, rng.uniform(0.4, 0.08 * mean + 0.5))
    haze = gaussian_filter(signal, mean * rng.uniform(1, 2))
    signal = signal + rng.uniform(0, 0.6) * haze + rng.uniform(0.02, 0.2)
    return camera(rng, signal / (np.percentile(signal, 99.5) + 1e-6)), labels


def whole_cells(rng: np.random.Generator, size: Size) -> tuple[Image, Labels]:
    """Whole cells in fluorescence: irregular, granular, often with a dark or bright nucleus."""
    mean = math.exp(rng.uniform(math.log(12), math.log(60)))
    labels = scatter(
        rng, size, (mean * 0.7, mean * 1.4), rng.uniform(0.3, 0.8), roughness=rng.uniform(0.2, 0.45)
    )
    count = int(labels.max()) + 1
    brightness = np.exp(rng.normal(0, 0.35, count))
    brightness[0] = rng.uniform(0, 0.15)
    signal = paint(labels, brightness)
    grain = clouds(rng, size, rng.uniform(1.5, 5))
    inner = distance_transform_edt(~outlines(labels)) > mean * rng.uniform(0.3, 0.5)
    signal *= np.where(inner & (labels > 0), rng.uniform(0.3, 1.8), 1)
    signal = gaussian_filter(signal, rng.uniform(0.6, 2)) * np.clip(1 + 0.3 * grain, 0.1, None)
    return camera(rng, signal / (np.percentile(signal, 99.5) + 1e-6)), labels


def tissue(rng: np.random.Generator, size: Size) -> tuple[Image, Labels]:
    """Stained tissue: violet nuclei in pink, by absorption in three colours."""
    mean = math.exp(rng.uniform(math.log(5), math.log(24)))
    labels = scatter(
        rng, size, (mean * 0.6, mean * 1.4), rng.uniform(0.1, 0.45), roughness=rng.uniform(0.1, 0.3)
    )
    count = int(labels.max()) + 1
    amount = np.exp(rng.normal(0, 0.3, count)) * rng.uniform(0.5, 1.2)
    amount[0] = rng.uniform(0, 0.15)
    stain = gaussian_filter(paint(labels, amount), rng.uniform(0.5, 1.2))
    stain *= np.clip(1 + rng.uniform(0.1, 0.4) * clouds(rng, size, mean * 0.4), 0.2, None)
    fibres = np.clip(0.35 + 0.2 * clouds(rng, size, rng.uniform(6, 40)) + 0.1 * clouds(rng, size, 3), 0, None)
    violet = np.array([0.65, 0.70, 0.29]) + rng.normal(0, 0.08, 3)
    pink = np.array([0.07, 0.99, 0.11]) + np.abs(rng.normal(0, 0.08, 3))
    signal = np.exp(-stain[..., None] * violet * 1.6 - fibres[..., None] * pink * rng.uniform(0.2, 1.0))
    return camera(rng, signal, photons=(200, 3000)), labels


def brightfield(rng: np.random.Generator, size: Size) -> tuple[Image, Labels]:
    """Cells in transmitted light: grey inside and out, a rim, and a halo as in phase contrast."""
    mean = math.exp(rng.uniform(math.log(6), math.log(45)))
    labels = scatter(
        rng, size, (mean * 0.7, mean * 1.4), rng.uniform(0.1, 0.6), roughness=rng.uniform(0.1, 0.3)
    )
    count = int(labels.max()) + 1
    tone = rng.normal(0, 0.06, count) + rng.uniform(-0.15, 0.15)
    tone[0] = 0
    signal = 0.5 + paint(labels, tone)
    rim = gaussian_filter(outlines(labels).astype(np.float32), rng.uniform(0.6, 1.5))
    halo = gaussian_filter((labels > 0).astype(np.float32), mean * 0.25) * (labels == 0)
    signal = signal + rng.choice([-1, 1]) * rng.uniform(0.1, 0.5) * rim + rng.uniform(-0.1, 0.4) * halo
    signal = signal + (labels > 0) * rng.uniform(0, 0.08) * clouds(rng, size, rng.uniform(2, 6))
    return camera(rng, signal, photons=(200, 3000)), labels


def membranes(rng: np.random.Generator, size: Size) -> tuple[Image, Labels]:
    """Cells wall to wall behind dark membranes, with dark specks, as in electron micrographs."""
    mean = math.exp(rng.uniform(math.log(10), math.log(45)))
    count = max(4, int(size[0] * size[1] / (math.pi * mean**2)))
    seeds = rng.uniform(0, 1, (count, 2)) * size
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    y += mean * 0.25 * clouds(rng, size, mean * 0.7)
    x += mean * 0.25 * clouds(rng, size, mean * 0.7)
    nearest = cKDTree(seeds).query(np.stack([y, x], axis=-1))[1]
    labels = np.asarray(nearest + 1, np.int32)
    wall = distance_transform_edt(~outlines(labels)) < rng.uniform(1.2, max(1.5, mean * 0.12))
    tone = np.clip(rng.normal(0.7, 0.06, len(seeds) + 1), 0.4, 1)
    signal = paint(labels, tone) * np.clip(
        1 + rng.uniform(0.03, 0.12) * clouds(rng, size, rng.uniform(2, 6)), 0.3, 2
    )
    signal = np.where(wall, rng.uniform(0.1, 0.35), signal)
    specks = scatter(rng, size, (1.5, max(2.5, mean * 0.15)), rng.uniform(0, 0.06))
    signal = np.where(specks > 0, signal * 0.6, signal)
    labels[wall] = 0
    return camera(rng, gaussian_filter(signal, rng.uniform(0.4, 1.0)), photons=(30, 400)), labels


def leaves(rng: np.random.Generator, size: Size) -> tuple[Image, Labels]:
    """Textured regions over textured regions, of any size: the dead-leaves model."""
    labels = scatter(rng, size, (5, min(size) / 3), rng.uniform(0.8, 2.5), roughness=0.4, above=True)
    labels = np.unique(labels, return_inverse=True)[1].reshape(size).astype(np.int32)
    colours = rng.uniform(0.1, 0.9, (int(labels.max()) + 1, 3))
    grain = np.stack([clouds(rng, size, s) for s in (1.5, 4, 12)])
    weights = rng.dirichlet(np.full(3, 0.5), int(labels.max()) + 1) * rng.uniform(0, 0.35)
    texture = sum(weights[labels, i] * grain[i] for i in range(3))
    signal = colours[labels] + np.asarray(texture)[..., None]
    signal = gaussian_filter(signal, (*[rng.uniform(0.3, 1.0)] * 2, 0))
    return camera(rng, signal if rng.random() < 0.5 else signal[..., 0], photons=(100, 2000)), labels


FAMILIES: dict[str, Family] = {
    "nuclei": nuclei,
    "cells": whole_cells,
    "tissue": tissue,
    "brightfield": brightfield,
    "membranes": membranes,
    "leaves": leaves,
}
