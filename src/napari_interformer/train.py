"""Training, read from top to bottom: crops, simulated clicks, one loss, one loop.

Follows the paper's recipe (Huang et al., ICCV 2023, section 4.1) with one addition: a crop of microscopy holds
dozens of objects, so one encoding teaches many of them at once, each in a window of its own.

    python -m napari_interformer.cli train FOLDER -o model.safetensors        one device
    torchrun --nproc-per-node 4 -m napari_interformer.cli train FOLDER ...    several GPUs
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import math
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import find_objects, gaussian_filter
from skimage.segmentation import relabel_sequential
from torch import nn
from torch.utils.data import DataLoader, Dataset

from napari_interformer import datasets, samples
from napari_interformer.checkpoint import load_model, save_model
from napari_interformer.crowd import draw_clicks, fold_all, next_clicks, obey_all
from napari_interformer.decoder import resize
from napari_interformer.image import stretch
from napari_interformer.model import (
    PRESETS,
    InterFormer,
    decoding_device,
    normalise,
    resolve_device,
)
from napari_interformer.prompts import DIVISOR, Box, State
from napari_interformer.settings import RANGE, SHARE, Allowed, at_least, check_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_interformer.model import InterFormerConfig

log = logging.getLogger(__name__)

LEAST_PIXELS = 12  # of an object in a crop that is learnt from
ROOMY = 1.5  # pixels across, of an image that is made smaller, for each of a crop's
TRIES = 300  # crops that are cut for one that holds an object, at most
# Of an image's intensities, between which the black and the white of a crop are drawn.
LEVELS = np.concatenate([np.linspace(0, 2, 21), np.linspace(98.5, 100, 31)])
CANCELLED = 2  # a process's vote: go on is 0, the run is over 1
HARMLESS = ("device", "workers", "save_minutes")  # settings that a resumed run may change


@dataclass(frozen=True)
class ClickConfig:
    """How clicks are learnt from.

    Attributes
    ----------
    clicks : float
        P(n further clicks) is proportional to this to the power n.
    max_clicks : int
        Most further clicks.
    auxiliary : float
        Weight of the auxiliary head's loss.
    dice : float
        Weight of the Dice loss, which the paper does not have: an object of a few pixels counts as much as a large one.
    """

    clicks: float = 0.6
    max_clicks: int = 20
    auxiliary: float = 0.4
    dice: float = 1.0

    allowed: ClassVar = {
        "clicks": SHARE,
        "max_clicks": at_least(0),
        "auxiliary": at_least(0),
        "dice": at_least(0),
    }

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense, before anything is read."""
        check_settings(self, self.allowed)


@dataclass(frozen=True)
class TrainConfig(ClickConfig):
    """Everything that shapes a training run, beside `ClickConfig`.

    Attributes
    ----------
    preset : str
        Sizes of the network: light or tiny as in the paper (tiny is the larger one), or small as the one in the package.
    initial : str
        Name or file of a model to start from instead of random weights; its sizes hold then.
    dataset : str
        Layout of the folder: "folder" for images/ and labels/, or that of a published set: dsb2018, grabcut, berkeley,
        davis or sbd.
    validation : float
        Share of the images, by kind, that is never trained on.
    synthetic : float
        Share of the crops that are synthetic images of `samples.py`.
    synthetic_images : int
        How many synthetic images are made (once, at the start).
    exclude : str
        Kinds of image and synthetic families that are left out, separated by commas: how good is a model on what it has
        never seen?
    steps : int
        Optimiser steps.
    minutes : float
        Stop after this long even if steps are left (the learning rate follows whichever comes first); 0 for no limit.
    crop_sizes : tuple of int
        Sides of the square crops in pixels; each step takes one of them.
    pixels_per_step : int
        Pixels encoded per step and device: the batch is this over the crop's area.
    windows_per_step : int
        Objects per step and device, at half the model's click window; fewer where the window is larger.
    window_sizes : tuple of float
        Sides of the window an object is decoded in, in click windows and rounded to multiples of 32; each step takes one
        of them. Smaller ones are cheaper, and teach on a CPU what larger ones would.
    balance : float
        How much more often an image of a rare kind is taken: its chance is the number of its kind's images to the power of
        minus this. 0 takes every image as often, 1 every kind.
    diameters : tuple of float
        Range of an image's median object diameter in pixels after random magnification, log-uniform.
    zoom : tuple of float
        Least and greatest magnification; an image that would not fill a crop is magnified more.
    lr : float
        Greatest learning rate of AdamW.
    weight_decay : float
        Weight decay of AdamW; norms, biases and embeddings are not decayed.
    layer_decay : float
        Learning rate of each ViT layer relative to the next (0.65 for Light, 0.75 for Tiny when fine-tuning).
    warmup : int
        Steps of linear warm-up.
    average : float
        Decay of the running average of the weights, which is what is saved.
    dense : float
        Weight of a loss on the encoder alone: foreground and borders of all objects of a crop, read off the finest map
        (not in the paper; for folders in which every object is labelled, else set it to 0).
    precision : str
        "bf16", "fp32" or "auto": bf16 on GPUs that have it.
    device : str
        "auto", "cpu" or "cuda"; with torchrun, each process takes the GPU of its number.
    workers : int
        Processes that make crops; 0 for none.
    seed : int
        Seed of the split, the synthetic images, the crops and the clicks.
    save_minutes : float
        How often the state is saved for resuming.
    """

    preset: str = "small"
    initial: str = ""
    dataset: str = "folder"
    validation: float = 0.2
    synthetic: float = 0.0
    synthetic_images: int = 600
    exclude: str = ""
    steps: int = 10_000
    minutes: float = 0.0
    crop_sizes: tuple[int, ...] = (128, 128, 128, 256)
    pixels_per_step: int = 4 * 128 * 128
    windows_per_step: int = 64
    window_sizes: tuple[float, ...] = (0.5, 0.5, 1, 1, 2)
    balance: float = 0.25
    diameters: tuple[float, float] = (9.0, 60.0)
    zoom: tuple[float, float] = (0.5, 4.0)
    lr: float = 1e-3
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    warmup: int = 100
    average: float = 0.998
    dense: float = 1.0
    precision: str = "auto"
    device: str = "auto"
    workers: int = 1
    seed: int = 0
    save_minutes: float = 5.0
    allowed: ClassVar = ClickConfig.allowed | {
        "validation": SHARE,
        "synthetic": SHARE,
        "synthetic_images": at_least(1),
        "steps": at_least(1),
        "minutes": at_least(0),
        "crop_sizes": Allowed(
            f"multiples of {DIVISOR}",
            lambda sides: sides and all(side > 0 and side % DIVISOR == 0 for side in sides),
        ),
        "pixels_per_step": at_least(1),
        "windows_per_step": at_least(1),
        "window_sizes": Allowed(
            "numbers above 0", lambda shares: shares and all(0 < share < math.inf for share in shares)
        ),
        "balance": SHARE,
        "diameters": RANGE,
        "zoom": RANGE,
        "lr": at_least(0),
        "weight_decay": at_least(0),
        "layer_decay": SHARE,
        "warmup": at_least(1),
        "average": SHARE,
        "dense": at_least(0),
        "workers": at_least(0),
        "seed": at_least(0),
        "save_minutes": at_least(0),
    }


@dataclass(frozen=True)
class Progress:
    """Where a run stands; `losses` and `ious` are averages since the last report."""

    step: int
    steps: int
    loss: float
    first_iou: float
    last_iou: float
    seconds_left: float


# ---------------------------------------------------------------------------------------------- crops


@dataclass(frozen=True)
class Picture:
    """An image to crop from: pixels (Y, X) or (Y, X, 3) as stored, labels (Y, X) from 0, and what kind of image it is.

    Labels are renumbered without gaps.
    """

    pixels: NDArray[np.generic]
    labels: NDArray[np.integer]
    kind: str = ""

    def __post_init__(self) -> None:
        """Renumber the objects: then counting them takes no room for numbers that are not there."""
        object.__setattr__(self, "labels", relabel_sequential(self.labels)[0].astype(np.int32))

    @functools.cached_property
    def areas(self) -> NDArray[np.integer]:
        """Pixels of each object."""
        return np.bincount(self.labels.ravel())[1:]

    @functools.cached_property
    def quantiles(self) -> NDArray[np.float64]:
        """The finite pixels' percentiles at `LEVELS`; zeros if there are none."""
        values = self.pixels[np.isfinite(self.pixels)]
        values = values.astype(np.promote_types(values.dtype, np.uint8))  # of truth values there are none
        return np.percentile(values, LEVELS) if values.size else np.zeros(len(LEVELS))

    @property
    def largest(self) -> int:
        """Pixels of the largest object; 0 if there is none."""
        return int(self.areas.max(initial=0))

    @property
    def diameter(self) -> float:
        """Median diameter of the objects in pixels, each taken for a disk."""
        return float(np.sqrt(4 * np.median(self.areas) / np.pi)) if len(self.areas) else 1.0


@dataclass(frozen=True)
class Batch:
    """One step's crops and objects, as little as it takes: it goes from process to process and on to the device.

    Attributes
    ----------
    pixels : (B, 3, S, S) uint8
        RGB.
    labels : (B, S, S) int8, int16 or int32
        The objects of each crop, numbered from 1.
    objects : (N, 4) int64
        Which crop each object lies in, its number there, and the top and left edge of its window.
    window : int
        The side of all windows.
    seed : int
        For the clicks.
    """

    pixels: Tensor
    labels: Tensor
    objects: Tensor
    window: int
    seed: int

    def to(self, device: torch.device | str) -> Batch:
        """Return it on a device."""
        pixels, labels, objects = (
            part.to(device, non_blocking=True) for part in (self.pixels, self.labels, self.objects)
        )
        return Batch(pixels, labels, objects, self.window, self.seed)

    @property
    def targets(self) -> Tensor:
        """Each object within its window: (N, w, w) bool."""
        images, numbers, corners = self.objects[:, 0], self.objects[:, 1], self.objects[:, 2:]
        cut = windows(self.labels[:, None], images, corners, self.window)[:, 0]
        return cut == numbers.to(cut.dtype)[:, None, None]

    @property
    def dense(self) -> Tensor:
        """Where there is any object, and where one ends: (B, 2, S, S) bool."""
        return torch.stack([self.labels > 0, borders(self.labels)], 1)


class Batches(Dataset[Batch]):
    """Step number to batch, the same whenever it is asked for: a resumed run goes on as if nothing had happened."""

    def __init__(
        self,
        real: Sequence[Picture],
        synthetic: Sequence[Picture],
        config: TrainConfig,
        model: InterFormerConfig,
        rank: int,
    ) -> None:
        self.real, self.synthetic, self.config, self.model, self.rank = real, synthetic, config, model, rank
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
        rng = np.random.default_rng([config.seed, self.rank, step])
        size = int(rng.choice(config.crop_sizes))
        # What a window sees must not depend on its size alone, so an object comes in windows of several sizes.
        window = round(self.model.click_window * rng.choice(config.window_sizes) / DIVISOR) * DIVISOR
        window = min(size, max(window, DIVISOR))
        count = max(1, config.pixels_per_step // size**2)
        smallest = min(self.model.click_window, *config.crop_sizes) // 2
        per_image = max(1, config.windows_per_step * smallest**2 // (window**2 * count))
        pixels: list[Tensor] = []
        labels: list[NDArray[np.integer]] = []
        objects: list[tuple[int, int, int, int]] = []
        tries = itertools.count()
        while len(pixels) < count or len(objects) < 2:  # batch norm cannot learn from one
            if next(tries) > TRIES * count:
                raise ValueError(
                    f"Of {TRIES * count} crops hardly any has an object of {LEAST_PIXELS} pixels: give larger diameters, a "
                    "greater zoom, or larger crop_sizes."
                )
            if self.synthetic and rng.random() < config.synthetic:
                picture = self.synthetic[int(rng.integers(len(self.synthetic)))]
            else:
                picture = self.real[int(rng.choice(len(self.real), p=self.chances))]
            place = draw_place(picture, size, config, rng)
            numbers = cut_labels(picture, place)
            found = choose_objects(numbers, per_image, rng)
            if len(found) == 0:
                continue
            around = find_objects(numbers)
            for number in found:
                rows, columns = around[number - 1]
                box = Box(columns.start, rows.start, columns.stop, rows.stop)
                box = place_window(box, window, size, rng)
                objects.append((len(pixels), int(number), box.top, box.left))
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


def draw_place(picture: Picture, size: int, config: TrainConfig, rng: np.random.Generator) -> Place:
    """Draw a square of `size` pixels, magnified, turned and stretched at random."""
    # By the objects' size, not the image's: what was seen at one magnification is then known at all. But more than a
    # fifth of black on a side teaches nothing.
    shape = np.array(picture.labels.shape)
    factor = math.exp(rng.uniform(*np.log(config.diameters))) / picture.diameter
    factor = max(float(np.clip(factor, *config.zoom)), size / (1.25 * int(shape.min())))
    linear = warp(rng) / factor  # from the crop's axes to the image's
    reach = np.abs(linear).sum(1) * size / 2
    centre = np.where(2 * reach < shape, rng.uniform(reach, np.maximum(shape - reach, reach)), shape / 2)
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


def cut_labels(picture: Picture, place: Place) -> NDArray[np.integer]:
    """Return the objects of a crop, (S, S), numbered from 1; 0 beyond the image."""
    seen = torch.from_numpy(picture.labels[place.seen].astype(np.float32))  # exact up to 16 million objects
    cut = F.grid_sample(seen[None, None], place.grid, "nearest", align_corners=False)[0, 0].int().numpy()
    there = np.bincount(cut.ravel()) > 0
    there[0] = True
    numbers = there.cumsum() - 1
    return np.asarray(numbers.astype(np.min_scalar_type(-1 - numbers[-1]))[cut])


def cut_pixels(picture: Picture, place: Place, rng: np.random.Generator) -> Tensor:
    """Return the pixels of a crop, stretched and recoloured, (3, S, S) uint8; black beyond the image."""
    pixels = picture.pixels[place.seen]
    low, high = 0.0, 255.0
    if pixels.ndim == 2 or rng.random() < 0.3:
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


def recolour(colours: NDArray[np.float32], scale: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Mix, invert, bend and disturb intensities in 0..1: (1 or 3, Y, X), and 3 may come of 1.

    `scale` is the size relative to the image as stored, to whose pixels noise and blur belong.
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


def borders(labels: Tensor) -> Tensor:
    """Return the pixels (B, Y, X) with a neighbour below or to the right, or above or to the left, of another label."""
    edge = torch.zeros_like(labels, dtype=torch.bool)
    below, right = labels[:, 1:] != labels[:, :-1], labels[..., 1:] != labels[..., :-1]
    edge[:, 1:] |= below
    edge[:, :-1] |= below
    edge[..., 1:] |= right
    edge[..., :-1] |= right
    return edge


def choose_objects(labels: NDArray[np.integer], count: int, rng: np.random.Generator) -> NDArray[np.integer]:
    """Return up to `count` labels of objects with at least `LEAST_PIXELS` in the crop."""
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    return rng.permutation(np.flatnonzero(areas >= LEAST_PIXELS))[:count]


def place_window(box: Box, window: int, size: int, rng: np.random.Generator) -> Box:
    """Put a window over an object, anywhere that keeps most of it inside, on the grid of `DIVISOR` pixels."""

    def start(low: int, high: int) -> int:
        reach = max(0, (window - (high - low)) // 2)
        centre = (low + high) / 2 + rng.uniform(-reach, reach)
        return min(max(0, round((centre - window / 2) / DIVISOR) * DIVISOR), size - window)

    left, top = start(box.left, box.right), start(box.top, box.bottom)
    return Box(left, top, left + window, top + window)


# --------------------------------------------------------------------------------------- one step


class Step(nn.Module):
    """Batch to loss, with the clicks simulated on the way. A module so that several GPUs can share it."""

    def __init__(self, model: InterFormer, config: TrainConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        stride = model.strides[0]
        self.dense_head = nn.Sequential(
            nn.Conv2d(model.channels[0], 2 * stride**2, 1), nn.PixelShuffle(stride)
        )
        # What has no share in the loss gets no gradient, for which several GPUs would wait.
        model.auxiliary_head.requires_grad_(config.auxiliary > 0)
        self.dense_head.requires_grad_(config.dense > 0)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, and the mean IoU after the first click and with all clicks."""
        model, config = self.model, self.config
        rng = np.random.default_rng(batch.seed)
        maps = model.encode(normalise(batch.pixels.float()))
        dense = self.dense_head(maps[0])
        images, corners = batch.objects[:, 0], batch.objects[:, 2:]
        maps = [
            windows(level, images, corners // stride, batch.window // stride)
            for level, stride in zip(maps, model.strides, strict=True)
        ]
        loss, first, last = click_loss(model, maps, batch.targets, config, rng)
        loss = loss + config.dense * F.binary_cross_entropy_with_logits(dense.float(), batch.dense.float())
        return loss, first, last


def windows(level: Tensor, images: Tensor, corners: Tensor, side: int) -> Tensor:
    """Cut squares out of maps (B, C, h, w): of `images` (N,), from `corners` (N, 2) on, to (N, C, side, side)."""
    reach = torch.arange(side, device=level.device)
    rows, columns = corners[:, :1] + reach, corners[:, 1:] + reach
    cut = level.permute(0, 2, 3, 1)[images[:, None, None], rows[:, :, None], columns[:, None]]
    return cut.permute(0, 3, 1, 2)


def click_loss(
    model: InterFormer, maps: list[Tensor], targets: Tensor, config: ClickConfig, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Simulate clicks on each object, then decode once with gradient.

    Parameters
    ----------
    model : InterFormer
        In training or evaluation mode.
    maps : list of (N, C_i, w / s_i, w / s_i)
        Each object's window.
    targets : (N, w, w) bool
        The objects, on the maps' device.
    config : ClickConfig
        How many clicks, and what counts.
    rng : numpy.random.Generator
        How many and where.

    Returns
    -------
    loss : Tensor
        A number.
    first, last : Tensor
        Mean IoU after the first click, of the objects that got more, and with all clicks.
    """
    further = np.sort(rng.choice(config.max_clicks + 1, len(targets), p=click_chances(config)))[::-1]
    generator = torch.Generator(targets.device).manual_seed(int(rng.integers(2**31)))
    with torch.no_grad(), evaluating(model):
        references, first = simulate(model, [level.detach() for level in maps], targets, further, generator)
    # Autocast keeps the weights that it has cast. Before PyTorch 2.11 those cast without gradient would serve below,
    # and I-MSA and the head learn nothing (pytorch issue 65766).
    torch.clear_autocast_cache()
    logits, levels = model.decode_levels(maps, references)
    loss = normalised_focal_loss(logits, targets) + config.dice * dice_loss(logits, targets)
    if config.auxiliary:
        loss = loss + config.auxiliary * normalised_focal_loss(model.auxiliary_head(levels), targets)
    last = mean_iou(foreground(logits.detach(), targets.shape[1:]) > 0, targets)
    return loss, last if first is None else first, last


def simulate(
    model: InterFormer,
    maps: list[Tensor],
    targets: Tensor,
    further: NDArray[np.integer],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor | None]:
    """Click into the errors of the model's own masks.

    Parameters
    ----------
    model : InterFormer
        In evaluation mode.
    maps : list of (N, C_i, w / s_i, w / s_i)
        Each object's window.
    targets : (N, w, w) bool
        The objects.
    further : (N,) int
        Each object's clicks after the first, most first: those that go on are then the first ones.
    generator : torch.Generator
        Where exactly.

    Returns
    -------
    references : (N, w, w) uint8
        The reference labels with one click more than was decoded.
    first : Tensor or None
        Mean IoU after the first click, of the objects that got more; None if none did.
    """
    inner, outer = model.config.inner_radius, model.config.outer_radius
    # The first click is at the deepest point, later ones somewhere deep (as the method has it).
    clicks = next_clicks(torch.zeros_like(targets), targets)
    states = torch.full(targets.shape, State.UNKNOWN, dtype=torch.uint8, device=targets.device)
    states = draw_clicks(states, clicks, inner, outer)
    going = int((further > 0).sum())
    if going == 0:
        return states, None
    prepared, history, first = model.prepare([level[:going] for level in maps]), [clicks], None
    for n in range(int(further[0])):
        going = int((further > n).sum())
        prepared, history = prepared.first(going), [clicks.first(going) for clicks in history]
        reference, truth = states[:going], targets[:going]
        logits = foreground(model.decode_levels(prepared, reference)[0], truth.shape[1:])
        masks = obey_all(logits, history) > 0
        first = mean_iou(masks, truth) if first is None else first
        history.append(next_clicks(masks, truth, generator))
        states[:going] = draw_clicks(fold_all(reference, masks), history[-1], inner, outer)
    return states, first


def normalised_focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.5, gamma: float = 2.0) -> Tensor:
    """Return the focal loss whose weights are rescaled, image by image, to sum to the pixel count.

    `logits` are (N, 2, h, w) at any stride, `targets` (N, H, W) bool.
    """
    difference = foreground(logits, targets.shape[1:])
    log_chance = F.logsigmoid(torch.where(targets, difference, -difference))
    weight = (1 - log_chance.exp()) ** gamma
    with torch.no_grad():
        scale = weight[0].numel() / weight.sum((1, 2), keepdim=True).clamp_min(1e-6)
    return -(alpha * scale * weight * log_chance).mean()


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return one minus the soft Dice overlap, averaged over objects; shapes as above."""
    chance = foreground(logits, targets.shape[1:]).sigmoid()
    overlap, total = (chance * targets).sum((1, 2)), chance.sum((1, 2)) + targets.sum((1, 2))
    return (1 - (2 * overlap + 1) / (total + 1)).mean()


def foreground(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Return foreground minus background at full size: (N, 2, h, w) to (N, H, W) float32."""
    full = resize(logits.float(), (size[0], size[1])).float()
    return full[:, 1] - full[:, 0]


def click_chances(config: ClickConfig) -> NDArray[np.float64]:
    """Return P(n further clicks), n = 0 .. max_clicks."""
    chances = config.clicks ** np.arange(config.max_clicks + 1)
    return np.asarray(chances / chances.sum())


def mean_iou(masks: Tensor, targets: Tensor) -> Tensor:
    """Return the mean IoU of two stacks of masks (N, Y, X); of two empty masks it is 1."""
    both, either = (masks & targets).sum((1, 2)), (masks | targets).sum((1, 2))
    return torch.where(either > 0, both / either.clamp_min(1), 1.0).mean()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode for a while."""
    was = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in was:
            module.training = training


# --------------------------------------------------------------------------------------- the loop


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Compute with zero for denormal numbers: late in a run many gradients are, and a CPU is several times slower on them.

    Only for a while, since whoever called computes in the same threads.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@denormals_as_zero()
def train(
    folder: str | Path,
    output: str | Path,
    config: TrainConfig | None = None,
    *,
    progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Path:
    """Train a model from a folder of images and label images.

    Parameters
    ----------
    folder : str or Path
        Images and labels, in the layout `config.dataset`; they are held in memory.
    output : str or Path
        The model, `.safetensors`. Beside it, `<name>.state.pt` holds what resuming needs: the same call goes on
        from there, and the file goes when the run has ended.
    config : TrainConfig, optional
        Defaults if None.
    progress, cancelled : callable, optional
        Told about progress; asked after each step whether to stop (the state is saved).

    Returns
    -------
    Path
        The model's file.

    Raises
    ------
    FileExistsError
        If there is a model of that name, of a run that has ended.
    ValueError
        If the folder holds nothing to learn from, settings make no sense, or the state is another run's.
    """
    config = config or TrainConfig()
    if config.preset not in PRESETS:
        raise ValueError(f"preset takes one of {', '.join(PRESETS)}; got {config.preset!r}.")
    if config.precision not in ("auto", "bf16", "fp32"):
        raise ValueError(f"precision takes auto, bf16 or fp32; got {config.precision!r}.")
    output = Path(output)
    state_path = output.with_suffix(".state.pt")
    if not state_path.exists():
        check_new(output)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = decoding_device(config.device)
    if world > 1:
        if device.type == "cuda":  # one for each process; NCCL takes the current one
            device = resolve_device(f"cuda:{os.environ['LOCAL_RANK']}")
            torch.cuda.set_device(device)
        torch.distributed.init_process_group()
    bf16 = config.precision == "bf16" or (config.precision == "auto" and has_bf16(device))

    pictures = training_pictures(folder, config)
    synthetic = synthetic_pictures(config) if config.synthetic else []
    log.info("%d images, %d synthetic ones", len(pictures), len(synthetic))
    settings = json.dumps(dataclasses.asdict(config))
    images = digest(pictures)

    torch.manual_seed(config.seed)
    model = load_model(config.initial) if config.initial else initialise(InterFormer(PRESETS[config.preset]))
    model.to(device).train()
    moving = torch.optim.swa_utils.get_ema_multi_avg_fn(config.average)  # type: ignore[no-untyped-call]
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=moving, use_buffers=True)
    step_module = Step(model, config).to(device)
    optimizer = torch.optim.AdamW(
        parameter_groups(step_module, model.config.layers, config),
        lr=config.lr,
        betas=(0.9, 0.999),
        fused=device.type == "cuda",
    )
    start, spent = 0, 0.0
    if state_path.exists():
        # Not to the device, which has no room for it twice; what is loaded goes where its parameter is.
        state = torch.load(state_path, map_location="cpu", weights_only=True)
        _check_state(state_path.name, state, settings, images)
        step_module.load_state_dict(state["step_module"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start, spent = state["step"], state["seconds"]
        log.info("going on from step %d of %s", start, state_path.name)

    batches = Batches(pictures, synthetic, config, model.config, rank)
    batches[start]  # what is wrong with the settings is told better from here than from another process
    loader = DataLoader(
        torch.utils.data.Subset(batches, range(start, config.steps)),
        batch_size=None,
        num_workers=config.workers,
        worker_init_fn=_deaf,
        multiprocessing_context=_start_method() if config.workers else None,
    )
    shared = nn.parallel.DistributedDataParallel(step_module) if world > 1 else step_module

    def save_state(step: int, seconds: float) -> None:
        if rank == 0:
            whole = state_path.with_suffix(".tmp")
            state = {
                "step_module": step_module.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "settings": settings,
                "images": images,
                "step": step,
                "seconds": seconds,
            }
            torch.save(state, whole)
            os.replace(whole, state_path)

    output.parent.mkdir(parents=True, exist_ok=True)
    began = saved = time.monotonic()
    recent: list[Tensor] = []  # left on the device: whoever asks for a number waits for it
    step, vote = start, 0
    for batch in loader:
        seconds = spent + time.monotonic() - began
        done = share_done(step, config.steps, seconds, config.minutes)
        asked = cancelled is not None and cancelled()
        vote = _largest(CANCELLED if asked else int(done >= 1), device, world)
        if vote:
            break
        rate = min(1, (step + 1) / config.warmup) * (1 - done)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * group["scale"] * rate
        batch = batch.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss, first, last = shared(batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(step_module.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        step += 1
        if progress is not None and rank == 0:
            recent.append(torch.stack([loss.detach(), first, last]))
            if step % 20 == 0:
                seconds = spent + time.monotonic() - began
                loss, first, last = torch.stack(recent).mean(0).tolist()
                done = share_done(step, config.steps, seconds, config.minutes)
                progress(Progress(step, config.steps, loss, first, last, seconds / done * (1 - done)))
                recent.clear()
        if time.monotonic() - saved > 60 * config.save_minutes:
            saved = time.monotonic()
            save_state(step, spent + saved - began)
    seconds = spent + time.monotonic() - began
    if vote == CANCELLED:
        save_state(step, seconds)
    elif rank == 0:
        trained = cast("InterFormer", average.module).eval()
        told = dataclasses.replace(config, initial=Path(config.initial).name)  # a machine's paths stay on it
        notes = {"trained": f"{step} steps, {seconds / 3600:.2f} h on {device.type}", "config": repr(told)}
        save_model(trained, output, notes, half=True)
        state_path.unlink(missing_ok=True)
    if world > 1:
        torch.distributed.destroy_process_group()
    return output


def check_new(output: Path) -> None:
    """Refuse to put a model in the place of one that took hours."""
    if output.exists():
        raise FileExistsError(
            f"{output.name} is there already; name another output, or delete it to train anew."
        )


def digest(pictures: Sequence[Picture]) -> str:
    """Return a hash by which the images of two runs are told apart: their sizes, and how large their objects are."""
    told = [(picture.kind, picture.pixels.shape, picture.diameter) for picture in pictures]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def _check_state(name: str, state: dict[str, Any], settings: str, images: str) -> None:
    """Refuse the state of a run that this one does not go on with."""
    if "settings" not in state:
        raise ValueError(
            f"{name} was written by another version: finish it there, or delete it to start anew."
        )
    then, now = json.loads(state["settings"]), json.loads(settings)
    changed = [key for key in now if key not in HARMLESS and then.get(key) != now[key]]
    if changed:
        told = ", ".join(f"{key} ({then.get(key)} then, {now[key]} now)" for key in changed)
        raise ValueError(
            f"{name} is the state of a run with other settings: {told}. Repeat those, or delete it to start anew."
        )
    if state.get("images") != images:
        raise ValueError(
            f"{name} is the state of a run on other images. Give the folder of that run, name another output, or delete "
            "it to start anew."
        )


def _deaf(*_: int) -> None:
    """Leave Ctrl+C and SIGTERM, which reach all processes of a group, to the main one: it has a state to save."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def share_done(step: int, steps: int, seconds: float, minutes: float) -> float:
    """Return how much of a run is over, from 0 to 1, by its steps or its minutes (0 for no limit), whichever ends it."""
    return min(1.0, max(step / steps, seconds / (60 * minutes) if minutes else 0))


def has_bf16(device: torch.device) -> bool:
    """Whether a device is a GPU that computes in bfloat16; older ones only pretend to, slowly."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def _largest(vote: int, device: torch.device, world: int) -> int:
    """Stop all processes if one does: clocks differ, and a process that waits for the others would wait for ever."""
    if world == 1:
        return vote
    votes = torch.tensor(vote, device=device)
    torch.distributed.all_reduce(votes, torch.distributed.ReduceOp.MAX)
    return int(votes.item())


def training_pictures(folder: str | Path, config: TrainConfig) -> list[Picture]:
    """Return the images of the training split."""
    everything = list(datasets.load(config.dataset, folder))
    chosen, kept = datasets.split(everything, fraction=config.validation, seed=config.seed)
    check_some(chosen, kept, config.validation)
    left_out = excluded(config)
    known = {sample.kind for sample in everything} | set(samples.FAMILIES)
    if unknown := left_out - known:
        raise ValueError(
            f"exclude takes kinds of image and synthetic families ({', '.join(sorted(known - {''}))}); got "
            f"{', '.join(sorted(unknown))}."
        )
    pictures = [
        Picture(sample.image, sample.labels, sample.kind) for sample in chosen if sample.kind not in left_out
    ]
    if not pictures:
        raise ValueError(
            f"train takes images to learn from; exclude names the kinds of all {len(chosen)}: leave one of them out of it."
        )
    useful = [picture for picture in pictures if picture.largest >= LEAST_PIXELS]
    if not useful:
        raise ValueError(
            f"train takes labelled images; none of the {len(pictures)} that are trained on has an object of "
            f"{LEAST_PIXELS} pixels: 0 is background and every other number an object."
        )
    return useful


def check_some(chosen: Sequence[datasets.Sample], kept: Sequence[datasets.Sample], validation: float) -> None:
    """Refuse a split that leaves nothing to learn from."""
    if not chosen:
        raise ValueError(
            f"train takes images to learn from; validation {validation} keeps all {len(kept)} from it: give a smaller share."
        )


def excluded(config: TrainConfig) -> set[str]:
    """Return the kinds and families that are left out."""
    return {name.strip() for name in config.exclude.split(",")} - {""}


def synthetic_pictures(config: TrainConfig) -> list[Picture]:
    """Return synthetic images, the same for the same seed, made by as many processes as crops are."""
    make = functools.partial(_synthetic_picture, config)
    if config.workers < 2:
        return [make(number) for number in range(config.synthetic_images)]
    pool = multiprocessing.get_context(_start_method()).Pool(config.workers, _deaf)
    try:
        return pool.map(make, range(config.synthetic_images), chunksize=8)
    finally:
        # Not `terminate`, as leaving `with` does: it sends a SIGTERM, to which these are deaf, and waits for ever.
        pool.close()
        pool.join()


def _synthetic_picture(config: TrainConfig, number: int) -> Picture:
    size = max(config.crop_sizes) * 5 // 4
    exclude = excluded(config) & set(samples.FAMILIES)
    rng = np.random.default_rng([config.seed, number])
    picture = Picture(*samples.synthetic(rng, (size, size), exclude=exclude))
    _ = picture.areas, picture.quantiles  # counted here, by many processes
    return picture


def _start_method() -> str | None:
    """Forked processes share the images in memory; elsewhere than on Linux forking is not safe or not there."""
    return "fork" if sys.platform == "linux" else None


def parameter_groups(module: nn.Module, layers: int, config: TrainConfig) -> list[dict[str, object]]:
    """Return AdamW's groups: layer-wise rates for the ViT, no decay for norms, biases, embeddings."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        parts = name.removeprefix("model.").split(".")
        depth = layers + 1  # everything after the ViT learns at the full rate
        if parts[:2] == ["backbone", "layers"]:
            depth = int(parts[2]) + 1
        elif parts[0] == "backbone" and parts[1] in ("cls_token", "pos_embed", "patch_embed"):
            depth = 0
        plain = parameter.ndim > 1 and not name.endswith(
            ("pos_embed", "cls_token", "bias_table", "neck.patch_embed")
        )
        key = (config.layer_decay ** (layers + 1 - depth), config.weight_decay if plain else 0.0)
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": params, "scale": scale, "weight_decay": decay} for (scale, decay), params in groups.items()
    ]


def initialise(model: InterFormer) -> InterFormer:
    """Set a fresh model's weights: truncated normal for linear layers and embeddings, zero for biases.

    A short run finds the clicks only if they stand out from the features they are added to: the states of the
    reference label begin evenly spaced along one direction, and the features ten times smaller.
    """
    with torch.no_grad():
        for branch in model.backbone.fpn.rescale_ops:
            cast("nn.GroupNorm", cast("nn.Sequential", branch)[-2]).weight.mul_(0.1)
        if model.backbone.detail is not None:
            model.backbone.detail.lateral_finest.weight.mul_(0.1)
            model.backbone.detail.lateral_second.weight.mul_(0.1)
        states = model.neck.patch_embed
        direction = torch.randint(0, 2, (states.shape[1],)) * 2.0 - 1
        states.copy_(
            torch.linspace(-2, 2, len(states))[:, None] * direction + 0.1 * torch.randn(states.shape)
        )
    for name, parameter in model.named_parameters():
        if name.endswith(("pos_embed", "cls_token")):
            nn.init.trunc_normal_(parameter, std=0.02)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=min(0.05, module.in_features**-0.5))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model
