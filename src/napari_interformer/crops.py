"""Crops: labelled images go in, and out come batches of crops with the windows of their objects.

A crop of a microscopy image holds dozens of objects, so it teaches many of them at once. Nothing here knows of the network,
except for the size of the window in which it decodes.
"""

from __future__ import annotations

import functools
import math
import multiprocessing
import signal
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import find_objects, gaussian_filter
from skimage.segmentation import relabel_sequential
from torch.utils.data import DataLoader, Dataset, Subset

from napari_interformer import datasets, samples
from napari_interformer.geometry import DIVISOR, Box
from napari_interformer.image import full_range, stretch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_interformer.train import TrainConfig

# Of an object in a crop that is learnt from. Counted after magnification, and what a crop's edge leaves of an object counts:
# so it is fewer than the 16 of an image's pixels with which the benchmark begins (`benchmark.SPECK`).
LEAST_PIXELS = 12
ROOMY = 1.5  # pixels across, of an image that is made smaller, for each of a crop's
EVERY_PLANE = 3  # synthetic images of which one is a plane of a stack
THICK = 8  # planes of that stack
MISSES = 20  # crops in a row without an object before one is laid around one
TRIES = 300  # crops that are cut for one that holds an object, at most
# Of an image's intensities, between which the black and the white of a crop are drawn.
LEVELS = np.concatenate([np.linspace(0, 2, 21), np.linspace(98.5, 100, 31)])

# --------------------------------------------------------------------------------------------------- images


@dataclass(frozen=True)
class Picture:
    """An image to crop from: pixels (Y, X) or (Y, X, 3) as stored, labels (Y, X), and what kind of image it is.

    Labels below 0 are pixels that do not count, and become -1; those of objects are renumbered without gaps.
    """

    pixels: NDArray[np.generic]
    labels: NDArray[np.integer]
    kind: str = ""

    def __post_init__(self) -> None:
        """Renumber the objects, so that counting them takes no memory for numbers that are not used."""
        labels = relabel_sequential(np.maximum(self.labels, 0))[0].astype(np.int32)
        labels[self.labels < 0] = -1
        object.__setattr__(self, "labels", labels)

    @functools.cached_property
    def areas(self) -> NDArray[np.integer]:
        """Pixels of each object."""
        return np.bincount(self.labels[self.labels > 0])[1:]

    @functools.cached_property
    def quantiles(self) -> NDArray[np.float64]:
        """The percentiles of the finite pixels at `LEVELS`; zeros if there are none."""
        values = self.pixels[np.isfinite(self.pixels)]
        values = values.astype(np.promote_types(values.dtype, np.uint8))  # of truth values there are none
        return np.percentile(values, LEVELS) if values.size else np.zeros(len(LEVELS))

    @property
    def inside(self) -> bool:
        """Whether all intensities lie in 0..1."""
        return bool(self.quantiles[0] >= 0 and self.quantiles[-1] <= 1)

    @property
    def diameter(self) -> float:
        """Median diameter of the objects in pixels, each taken as a disk; specks, which teach nothing, do not count."""
        areas = self.areas[self.areas >= LEAST_PIXELS]
        return float(np.sqrt(4 * np.median(areas) / np.pi)) if len(areas) else 1.0


def training_pictures(folder: str | Path, config: TrainConfig) -> tuple[list[Picture], int]:
    """Return the images of the training split, and how many are kept out of it."""
    everything = list(datasets.load(config.dataset, folder))
    chosen, kept = datasets.split(everything, fraction=config.validation)
    if not chosen:
        raise ValueError(
            f"train needs images to learn from; validation {config.validation} keeps all {len(kept)} from it: give a smaller "
            "share."
        )
    left_out = excluded(config)
    known = {sample.kind for sample in everything} | samples.FAMILIES.keys() | samples.VOLUMES.keys()
    if unknown := left_out - known:
        raise ValueError(
            f"exclude takes kinds of image and synthetic families ({', '.join(sorted(known - {''}))}); got "
            f"{', '.join(sorted(unknown))}."
        )
    pictures = [
        Picture(sample.image, sample.marked, sample.kind) for sample in chosen if sample.kind not in left_out
    ]
    if not pictures:
        raise ValueError(
            f"train needs images to learn from; exclude names the kinds of all {len(chosen)}: take a kind out of exclude."
        )
    useful = [picture for picture in pictures if picture.areas.max(initial=0) >= LEAST_PIXELS]
    if not useful:
        raise ValueError(
            f"train needs labelled images; none to train on ({len(pictures)}) has an object of {LEAST_PIXELS} "
            "pixels: check the labels, in which 0 is background and every other number an object."
        )
    return useful, len(kept)


def excluded(config: TrainConfig) -> set[str]:
    """Return the kinds and families that are left out."""
    return {name.strip() for name in config.exclude.split(",")} - {""}


def synthetic_pictures(config: TrainConfig, cancelled: Callable[[], bool] | None = None) -> list[Picture]:
    """Return synthetic images, the same for the same seed, made by `config.workers` processes; fewer if cancelled."""
    make = functools.partial(_synthetic_picture, config)
    made: list[Picture] = []

    def going() -> bool:
        return len(made) < config.synthetic_images and not (cancelled is not None and cancelled())

    if config.workers < 2:
        while going():
            made.append(make(len(made)))
        return made
    with multiprocessing.get_context(_start_method()).Pool(config.workers, _until_told) as pool:
        coming = pool.imap(make, range(config.synthetic_images))
        while going():
            with suppress(multiprocessing.TimeoutError):
                made.append(coming.next(timeout=0.5))
    return made


def _synthetic_picture(config: TrainConfig, number: int) -> Picture:
    size = max(config.crop_sizes) * 5 // 4
    left_out = excluded(config)
    rng = np.random.default_rng([config.seed, number])
    if number % EVERY_PLANE == 0 and samples.VOLUMES.keys() - left_out:
        exclude = left_out & samples.VOLUMES.keys()
        stack, objects = samples.synthetic_stack(rng, (THICK, size, size), exclude=exclude)
        picture = Picture(stack[THICK // 2], objects[THICK // 2])
    else:
        picture = Picture(*samples.synthetic(rng, (size, size), exclude=left_out & samples.FAMILIES.keys()))
    _ = picture.areas, picture.quantiles  # counted here, by many processes
    return picture


# -------------------------------------------------------------------------------------------------- batches


@dataclass(frozen=True)
class Batch:
    """One step's crops and objects, kept small because it goes from process to process and then to the device.

    Attributes
    ----------
    pixels : (B, 3, S, S) uint8
        RGB.
    labels : (B, S, S) int8, int16 or int32
        The objects of each crop, numbered from 1; -1 where pixels do not count.
    objects : (N, 4) int64
        Which crop each object lies in, its number there, and the top and left edge of its window.
    window : int
        The side of all windows.
    seed : int
        Random seed for the clicks.
    """

    pixels: Tensor
    labels: Tensor
    objects: Tensor
    window: int
    seed: int

    def to(self, device: torch.device | str) -> Batch:
        """Return it on a device."""
        pixels, labels, objects = (part.to(device) for part in (self.pixels, self.labels, self.objects))
        return Batch(pixels, labels, objects, self.window, self.seed)

    @property
    def targets(self) -> Tensor:
        """Each object within its window: (N, w, w) bool."""
        cut = self._cut
        return cut == self.objects[:, 1].to(cut.dtype)[:, None, None]

    @property
    def ignored(self) -> Tensor:
        """What does not count within each object's window: (N, w, w) bool."""
        return self._cut < 0

    @functools.cached_property
    def _cut(self) -> Tensor:
        return windows(self.labels[:, None], self.objects[:, 0], self.objects[:, 2:], self.window)[:, 0]

    @property
    def dense(self) -> Tensor:
        """Where there is any object, and where one ends: (B, 2, S, S) bool."""
        return torch.stack([self.labels > 0, borders(self.labels)], 1)


class Batches(Dataset[Batch]):
    """Batches by step number, always the same for a step: a resumed run continues as if nothing had happened."""

    def __init__(
        self,
        real: Sequence[Picture],
        synthetic: Sequence[Picture],
        config: TrainConfig,
        click_window: int,
        rank: int,
    ) -> None:
        self.real, self.synthetic, self.config = real, synthetic, config
        self.click_window, self.rank = click_window, rank
        kinds = Counter(picture.kind for picture in real)
        chances = np.array([kinds[picture.kind] ** -config.balance for picture in real])
        self.chances = chances / chances.sum()
        for picture in (*real, *synthetic):  # here and once, before processes are forked
            _ = picture.areas, picture.quantiles

    def __len__(self) -> int:
        """Return the number of steps."""
        return self.config.steps

    def __getitem__(self, step: int) -> Batch:
        """Make the batch of a step."""
        config = self.config
        # All processes have crops and windows of the same sizes, or the quicker ones would wait for the others at every step.
        sizes = np.random.default_rng([config.seed, step])
        rng = np.random.default_rng([config.seed, self.rank, step])
        size = int(sizes.choice(config.crop_sizes))
        # What a window sees must not depend on its size alone, so an object comes in windows of several sizes.
        window = round(self.click_window * sizes.choice(config.window_sizes) / DIVISOR) * DIVISOR
        window = min(size, max(window, DIVISOR))
        count = max(1, config.pixels_per_step // size**2)
        smallest = min(self.click_window, *config.crop_sizes) // 2
        per_image = max(1, config.windows_per_step * smallest**2 // (window**2 * count))
        pixels: list[Tensor] = []
        labels: list[NDArray[np.integer]] = []
        objects: list[tuple[int, int, int, int]] = []
        tries = empty = 0
        while len(pixels) < count or len(objects) < 2:  # batch norm cannot learn from one
            tries += 1
            if tries > TRIES * count:
                raise ValueError(
                    f"Hardly any of {TRIES * count} crops has an object of {LEAST_PIXELS} pixels: give larger diameters, a "
                    "greater zoom, or larger crop_sizes."
                )
            if self.synthetic and rng.random() < config.synthetic:
                picture = self.synthetic[int(rng.integers(len(self.synthetic)))]
            else:
                picture = self.real[int(rng.choice(len(self.real), p=self.chances))]
            # A large image may have next to nothing in it: after some tries with nothing, one looks where something is.
            place = draw_place(picture, size, config, rng, on_object=empty >= MISSES)
            numbers = cut_labels(picture, place)
            seen = draw_windows(numbers, per_image, window, rng)
            empty = 0 if seen else empty + 1
            if seen:
                objects += [(len(pixels), *one) for one in seen]
                pixels.append(cut_pixels(picture, place, rng))
                labels.append(numbers)
        # The first objects get the most clicks, so these must not all be of one crop.
        order = rng.permutation(len(objects))
        return Batch(
            torch.stack(pixels),
            torch.from_numpy(np.stack(labels)),
            torch.tensor(objects)[order],
            window,
            int(rng.integers(2**31)),
        )


def loader(batches: Batches, first: int) -> DataLoader[Batch]:
    """Return a loader of the batches from a step on, made ahead by `config.workers` processes."""
    workers = batches.config.workers
    return DataLoader(
        Subset(batches, range(first, len(batches))),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_deaf,
        multiprocessing_context=_start_method() if workers else None,
    )


# Ctrl+C, and that the terminal is closed, of which Windows tells nothing.
_OF_TERMINALS = [getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)]


def _deaf(*_: int) -> None:
    """Leave what ends all processes of a group to the main one: it has a state to save."""
    for number in (*_OF_TERMINALS, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _until_told() -> None:
    """Leave Ctrl+C, and that the terminal is closed, to the main process, and end when it sends SIGTERM."""
    for number in _OF_TERMINALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _start_method() -> str | None:
    """Return "fork" on Linux, where processes then share the images in memory; elsewhere it is unsafe or not available."""
    return "fork" if sys.platform == "linux" else None


# ------------------------------------------------------------------------------------------------- one crop


@dataclass(frozen=True)
class Place:
    """Where a crop lies in its image.

    Attributes
    ----------
    seen : tuple of slice
        The rows and columns that hold it.
    grid : (1, S, S, 2) float32
        Where each of its pixels lies in these, as `grid_sample` takes it.
    factor : float
        How much it is magnified.
    """

    seen: tuple[slice, slice]
    grid: Tensor
    factor: float


def draw_place(
    picture: Picture, size: int, config: TrainConfig, rng: np.random.Generator, *, on_object: bool = False
) -> Place:
    """Draw a square of `size` pixels, magnified, turned and stretched at random; anywhere, or around an object."""
    # By the objects' size, not the image's: what was seen at one magnification is then known at all. But the image's
    # shorter side fills at least four fifths of the crop's, so that little more than a third of its area is black.
    shape = np.array(picture.labels.shape)
    factor = math.exp(rng.uniform(*np.log(config.diameters))) / picture.diameter
    factor = max(float(np.clip(factor, *config.zoom)), size / (1.25 * int(shape.min())))
    linear = warp(rng) / factor  # from the crop's axes to the image's
    reach = np.abs(linear).sum(1) * size / 2
    centre = np.where(2 * reach < shape, rng.uniform(reach, np.maximum(shape - reach, reach)), shape / 2)
    if on_object and len(there := np.flatnonzero(picture.labels > 0)):
        # Within the crop whatever its turn; at the image's border it reaches beyond.
        off = rng.uniform(-1, 1, 2) * size / (4 * factor)
        centre = np.array(np.unravel_index(rng.choice(there), picture.labels.shape)) + off
    first = np.maximum(np.floor(centre - reach).astype(int) - 2, 0)
    last = np.minimum(np.ceil(centre + reach).astype(int) + 3, shape)
    # To -1..1 from edge to edge, columns first. Rows and columns add up, which is quicker than `affine_grid`.
    scale = 2 / (last - first)
    along = (np.arange(size) - (size - 1) / 2) * linear[..., None]  # (image's axis, crop's axis, S)
    start = (centre - first) * scale - 1
    grid = np.empty((1, size, size, 2), np.float32)
    for axis in range(2):
        down, across = (along[axis] * scale[axis]).astype(np.float32)
        np.add(down[:, None], across + np.float32(start[axis]), out=grid[0, :, :, 1 - axis])
    return Place((slice(first[0], last[0]), slice(first[1], last[1])), torch.from_numpy(grid), factor)


def warp(rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a turn and a flip, for some crops by any angle and with one axis stretched at the other's expense: (2, 2)."""
    angle = int(rng.integers(4)) * math.pi / 2
    matrix = np.diag([1.0, -1.0 if rng.random() < 0.5 else 1.0])
    if rng.random() < 0.4:
        angle += rng.uniform(-math.pi / 4, math.pi / 4)
        stretch = math.exp(rng.uniform(-0.15, 0.15))
        matrix = matrix @ np.diag([stretch, 1 / stretch])
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]]) @ matrix


def cut_labels(picture: Picture, place: Place) -> NDArray[np.integer]:
    """Return the objects of a crop, (S, S), numbered from 1; -1 beyond the image and where pixels do not count."""
    # One more than the labels, since `grid_sample` has 0 beyond the image. Exact up to 16 million objects.
    seen = torch.from_numpy(picture.labels[place.seen].astype(np.float32) + 1)
    cut = F.grid_sample(seen[None, None], place.grid, "nearest", align_corners=False)[0, 0].int().numpy()
    there = np.bincount(cut.ravel(), minlength=2) > 0
    there[:2] = True
    numbers = there.cumsum() - 2
    return np.asarray(numbers.astype(np.min_scalar_type(-1 - numbers[-1]))[cut])


def cut_pixels(picture: Picture, place: Place, rng: np.random.Generator) -> Tensor:
    """Return the pixels of a crop, stretched and recoloured, (3, S, S) uint8; black beyond the image."""
    pixels = picture.pixels[place.seen]
    limits = None if pixels.ndim == 2 else full_range(pixels.dtype, lambda: picture.inside)
    low, high = limits or (0.0, 0.0)
    if limits is None or rng.random() < 0.3:
        low, high = np.interp([rng.uniform(0, 2), rng.uniform(98.5, 100)], LEVELS, picture.quantiles)
        if low == high:  # a few bright specks on black, as in `percentiles`
            low, high = picture.quantiles[[0, -1]]
    seen = torch.from_numpy(np.atleast_3d(stretch(pixels, low, high))).permute(2, 0, 1)[None]  # (1, C, Y, X)
    scale = min(1.0, ROOMY * place.factor)
    if scale < 1:  # no aliasing, and no more pixels to recolour than the crop has use for
        size = [round(scale * side) for side in seen.shape[2:]]
        seen = F.interpolate(seen, size, mode="bilinear", antialias=True)
    colours = torch.from_numpy(recolour(seen[0].div(255).numpy(), scale, rng))
    cut = F.grid_sample(colours[None], place.grid, align_corners=False)[0]
    # Rounding is finer than the noise of a camera of 8 bits, and dark images of 16 have been stretched by now.
    return cut.mul_(255).add_(0.5).byte().expand(3, -1, -1)


def recolour(colours: NDArray[np.float32], scale: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Mix, invert, bend and disturb intensities in 0..1: (1 or 3, Y, X), of which 1 may become 3.

    `scale` is the size relative to the image as stored, because noise and blur depend on its pixels.
    """
    out = colours
    if len(colours) == 3:
        if rng.random() < 0.3:
            out = np.tensordot(rng.dirichlet(np.ones(3)).astype(np.float32), out, 1)[None]
        if rng.random() < 0.5:
            if rng.random() < 0.3:
                out = out[rng.permutation(len(out))]
            else:
                out = out * rng.uniform(0.8, 1.2, (3, 1, 1)).astype(np.float32)
    if rng.random() < 0.2:
        out = 1 - out
    out = np.clip(out, 0, 1) ** math.exp(rng.uniform(-0.6, 0.6))
    out *= rng.uniform(0.7, 1.2)
    out += rng.uniform(-0.05, 0.1)
    if rng.random() < 0.3:
        strength = np.float32(scale * rng.uniform(0, 0.08))
        out = out + strength * rng.standard_normal((3, *out.shape[1:]), np.float32)
    if rng.random() < 0.2:
        sigma = scale * rng.uniform(0.3, 1.2)
        out = gaussian_filter(out, (0, sigma, sigma))
    return np.clip(out, 0, 1)


def draw_windows(
    labels: NDArray[np.integer], count: int, window: int, rng: np.random.Generator
) -> list[tuple[int, int, int]]:
    """Return up to `count` objects of a crop, and the top and left edge of a window over each."""
    boxes, drawn = find_objects(labels), []
    for number in choose_objects(labels, count, rng):
        box = place_window(Box.at(*boxes[number - 1]), window, len(labels), rng)
        # Of a ring, or of an object in pieces, a window may see nothing.
        if np.count_nonzero(labels[box.slices] == number) >= LEAST_PIXELS:
            drawn.append((int(number), box.top, box.left))
    return drawn


def choose_objects(labels: NDArray[np.integer], count: int, rng: np.random.Generator) -> NDArray[np.integer]:
    """Return up to `count` labels of objects with at least `LEAST_PIXELS` in the crop."""
    areas = np.bincount(labels[labels > 0])
    return rng.permutation(np.flatnonzero(areas >= LEAST_PIXELS))[:count]


def place_window(box: Box, window: int, size: int, rng: np.random.Generator) -> Box:
    """Put a window over an object, anywhere that keeps most of it inside, on the grid of `DIVISOR` pixels."""

    def start(low: int, high: int) -> int:
        reach = max(0, (window - (high - low)) // 2)
        centre = (low + high) / 2 + rng.uniform(-reach, reach)
        first = round((centre - window / 2) / DIVISOR) * DIVISOR
        if first >= high:  # the grid has moved it off a small object
            first -= DIVISOR
        elif first + window <= low:
            first += DIVISOR
        return min(max(0, first), size - window)

    left, top = start(box.left, box.right), start(box.top, box.bottom)
    return Box(left, top, left + window, top + window)


def borders(labels: Tensor) -> Tensor:
    """Return the pixels (B, Y, X) with a neighbour below or to the right, or above or to the left, of another label.

    Labels below 0 are unknown, and differ from none.
    """
    edge, known = torch.zeros_like(labels, dtype=torch.bool), labels >= 0
    below = (labels[:, 1:] != labels[:, :-1]) & known[:, 1:] & known[:, :-1]
    right = (labels[..., 1:] != labels[..., :-1]) & known[..., 1:] & known[..., :-1]
    edge[:, 1:] |= below
    edge[:, :-1] |= below
    edge[..., 1:] |= right
    edge[..., :-1] |= right
    return edge


def windows(level: Tensor, images: Tensor, corners: Tensor, side: int) -> Tensor:
    """Cut squares out of maps (B, C, h, w): of `images` (N,), from `corners` (N, 2) on, to (N, C, side, side)."""
    reach = torch.arange(side, device=level.device)
    rows, columns = corners[:, :1] + reach, corners[:, 1:] + reach
    cut = level.permute(0, 2, 3, 1)[images[:, None, None], rows[:, :, None], columns[:, None]]
    return cut.permute(0, 3, 1, 2)
