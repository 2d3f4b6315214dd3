"""Shapes without light: label arrays of blobs, tubes and mosaics, in the plane and in stacks.

What is drawn here is the ground truth; `optics.py` blurs its picture afterwards. Randomness arrives as an `rng`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects
from scipy.spatial import cKDTree
from skimage.measure import label as connected

from napari_interformer.geometry import Box
from napari_interformer.optics import clouds, enlarge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Labels = NDArray[np.int32]
    Mask = NDArray[np.bool_]

COARSE = 32  # pixels of radius up to which an outline is computed on every pixel


def shape_of(
    rng: np.random.Generator,
    radius: float,
    roughness: float = 0.12,
    *,
    stretch: float = 0.2,
    turn: float | None = None,
    lobes: int = 5,
) -> Mask:
    """Return one smooth object of about `radius` pixels, in an array of its own box.

    Parameters
    ----------
    rng : numpy.random.Generator
    radius : float
        In pixels.
    roughness : float
        How far the outline strays from an ellipse: 0.1 for nuclei, 0.5 for crawling cells.
    stretch : float
        Deviation of the logarithm of the axes' ratio's root.
    turn : float, optional
        Direction of the axes in radians; drawn if None.
    lobes : int
        Highest harmonic of the outline.
    """
    turn, ratio = rng.uniform(0, math.pi) if turn is None else turn, math.exp(rng.normal(0, stretch))
    waves = [
        (n, radius * rng.normal(0, roughness / n), rng.uniform(0, 2 * math.pi)) for n in range(2, lobes + 1)
    ]
    longest = radius + sum(abs(amplitude) for _, amplitude, _ in waves)
    reach = math.ceil(longest * max(ratio, 1 / ratio)) + 1
    # Outlines are smooth, so a large object is computed on a coarser grid and enlarged.
    step = max(1, math.ceil(radius / COARSE))
    y, x = np.mgrid[-reach : reach + step : step, -reach : reach + step : step].astype(np.float32)
    u = (x * math.cos(turn) + y * math.sin(turn)) * ratio
    v = (y * math.cos(turn) - x * math.sin(turn)) / ratio
    angle = np.arctan2(v, u)
    outline = np.full_like(u, radius)
    for n, amplitude, phase in waves:
        outline += amplitude * np.cos(n * angle + phase)
    field = np.maximum(outline, 1) ** 2 - (u**2 + v**2)
    if step > 1:
        side = (len(field) - 1) * step + 1
        field = enlarge(enlarge(field, 0, side), 1, side)
    inside = field >= 0
    return np.asarray(inside[Box.around(inside).slices])


def scatter(
    rng: np.random.Generator,
    size: tuple[int, int],
    radius: tuple[float, float],
    cover: float,
    *,
    roughness: float = 0.12,
    stretch: float = 0.2,
    turn: float | None = None,
    lobes: int = 5,
    above: bool = False,
    overlap: float = 0.25,
    gather: float = 0.0,
) -> Labels:
    """Fill a field with objects until they cover a share of it.

    Objects whose share under earlier ones exceeds `overlap` are dropped; what remains lies below them, or
    `above` them. Touching neighbours are the rule, the more so if objects `gather` (the share that is put beside
    an earlier one). The shape's parameters are `shape_of`'s; a `turn` is common to all, give or take.
    """
    labels = np.zeros(size, np.int32)
    label, covered, failures = 0, 0, 0
    placed: list[tuple[float, float, float]] = []
    for _ in range(600):
        if covered >= cover * labels.size or failures > 60 + label:
            break
        failures += 1
        r = math.exp(rng.uniform(*np.log(radius)))
        turned = None if turn is None else turn + rng.normal(0, 0.2)
        mask = shape_of(rng, r, roughness, stretch=stretch, turn=turned, lobes=lobes)
        h, w = mask.shape
        if placed and gather and rng.random() < gather:
            y, x, other = placed[int(rng.integers(len(placed)))]
            angle, apart = rng.uniform(0, 2 * math.pi), (r + other) * rng.uniform(0.85, 1.05)
            top = round(y + apart * math.sin(angle) - h / 2)
            left = round(x + apart * math.cos(angle) - w / 2)
        else:
            top = int(rng.integers(-h // 2, size[0] - h // 2))
            left = int(rng.integers(-w // 2, size[1] - w // 2))
        seen = Box(left, top, left + w, top + h).intersect(Box.of(size))
        if seen.empty:
            continue
        part = mask[seen.shift(-top, -left).slices]
        field = labels[seen.slices]
        hidden = np.count_nonzero(part & (field > 0))
        area = np.count_nonzero(part)
        if area < 8 or (not above and hidden > overlap * area):
            continue
        label, failures = label + 1, 0
        visible = part if above else part & (field == 0)
        field[visible] = label
        covered += int(np.count_nonzero(visible))
        placed.append((top + h / 2, left + w / 2, r))
    return labels


def nest(rng: np.random.Generator, labels: Labels, share: tuple[float, float]) -> Labels:
    """Return a smaller object in the depth of each object of (Y, X) labels, of the same number.

    Its radius is the given `share` of the largest circle's that fits.
    """
    inner = np.zeros_like(labels)
    depth = distance_transform_edt(np.pad(~outlines(labels) & (labels > 0), 1))[1:-1, 1:-1]
    for label, box in enumerate(find_objects(labels), 1):
        if box is None:
            continue
        own = depth[box] * (labels[box] == label)
        y, x = np.unravel_index(np.argmax(own), own.shape)
        radius = own[y, x] * rng.uniform(*share)
        if radius < 2:
            continue
        y, x = int(y) + box[0].start, int(x) + box[1].start
        mask = shape_of(rng, radius, 0.1)
        h, w = mask.shape
        top, left = y - h // 2, x - w // 2
        seen = Box(left, top, left + w, top + h).intersect(Box.of((labels.shape[0], labels.shape[1])))
        part = mask[seen.shift(-top, -left).slices] & (labels[seen.slices] == label)
        inner[seen.slices][part] = label
    return inner


def mosaic(
    rng: np.random.Generator,
    size: Sequence[int],
    mean: float,
    spacing: Sequence[float] | NDArray[np.floating] | None = None,
    *,
    bend: float = 0.2,
) -> Labels:
    """Fill a plane or a stack with cells of about `mean` pixels in radius, wall to wall, of unequal sizes.

    `spacing` is the size of a voxel along each axis, 1 if None: `mean` counts in the same unit.
    Walls stray from straight ones by about `bend` times `mean`.
    """
    unit = np.ones(len(size)) if spacing is None else np.asarray(spacing, float)
    extent = unit * size
    ball = math.pi * mean**2 if len(size) == 2 else 4 / 3 * math.pi * mean**3
    # A margin all around, so that the border of the image is a cut like any other. The lift makes cells unequal: it
    # is the height of each seed above the image.
    margin = np.minimum(extent, 2 * mean)
    count = max(4, int(np.prod(extent + 2 * margin) / ball))
    seeds = rng.uniform(-margin, extent + margin, (count, len(size)))
    lift = rng.uniform(0, 1.2 * mean, (count, 1))
    grid = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float32) for n in size], indexing="ij"), axis=-1)
    grid *= unit
    for axis in range(len(size)):
        grid[..., axis] += bend * mean * clouds(rng, size, mean * 0.8 / unit)
        grid[..., axis] += 0.15 * bend * mean * clouds(rng, size, np.maximum(2, mean * 0.2 / unit))
    at_zero = np.concatenate([grid, np.zeros((*size, 1), np.float32)], axis=-1)
    nearest = cKDTree(np.concatenate([seeds, lift], axis=1)).query(at_zero)[1]
    return np.asarray(nearest + 1, np.int32)


def walk(
    rng: np.random.Generator,
    start: NDArray[np.floating],
    length: float,
    step: float,
    wander: float,
    heading: NDArray[np.floating] | None = None,
) -> NDArray[np.float64]:
    """Return a smooth path (N, D): `length` pixels in strides of `step`, turning by about `wander` radians."""
    count = max(2, math.ceil(length / step) + 1)
    knots = rng.normal(0, 1, (6, len(start)))
    turns = [np.interp(np.linspace(0, 5, count), range(6), knots[:, axis]) for axis in range(len(start))]
    heading = rng.normal(0, 1, len(start)) if heading is None else heading
    heading = heading / np.linalg.norm(heading) + wander * np.stack(turns, axis=1)
    heading /= np.linalg.norm(heading, axis=1, keepdims=True)
    return np.asarray(start + step * (np.cumsum(heading, axis=0) - heading[0]))


def tube(path: NDArray[np.floating], radii: float | NDArray[np.floating]) -> NDArray[np.int64]:
    """Return the pixels (M, D), some twice, within `radii` (per axis) of any point of a path (N, D)."""
    unit = np.broadcast_to(np.asarray(radii, float), path.shape[1:])
    reach = [np.arange(-math.ceil(r) - 1, math.ceil(r) + 2) for r in unit]
    offsets = np.stack(np.meshgrid(*reach, indexing="ij"), axis=-1).reshape(-1, path.shape[1])
    pixels = np.floor(path).astype(np.int64)[:, None] + offsets  # (N, K, D)
    far = (((pixels - path[:, None]) / unit) ** 2).sum(axis=-1)
    return np.asarray(pixels[far <= 1])


def draw(
    labels: Labels, pixels: NDArray[np.int64], label: int, *, above: bool = False, overlap: float = 0.1
) -> bool:
    """Draw an object of given pixels (M, D), unless more than `overlap` of it is taken; say whether it was.

    It goes below what is there, or `above`.
    """
    within = np.all((pixels >= 0) & (pixels < labels.shape), axis=1)
    where = tuple(pixels[within].T)
    taken = labels[where] > 0
    if within.sum() < 8 or taken.mean() > overlap:
        return False
    labels[where] = label if above else np.where(taken, labels[where], label)
    return True


def outlines(labels: Labels, axes: Sequence[int] | None = None) -> Mask:
    """Return the pixels that touch another label, along all axes or some."""
    edge = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim) if axes is None else axes:
        line, across = np.moveaxis(edge, axis, 0), np.moveaxis(labels, axis, 0)
        differs = across[1:] != across[:-1]
        line[1:] |= differs
        line[:-1] |= differs
    return edge


def whole(labels: Labels, smallest: int = 12) -> Labels:
    """Renumber objects from 1, so that each is one connected piece of at least `smallest` pixels.

    What lies behind another object may show in two places: a user sees two objects there, and so does this.
    """
    pieces = connected(labels, connectivity=1, background=0)
    areas = np.bincount(pieces.ravel())
    kept = areas >= smallest
    kept[0] = False
    return np.asarray((np.cumsum(kept) * kept)[pieces], np.int32)
