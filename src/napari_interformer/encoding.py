"""Planes to features: tiles, device, progress, cancel, resume."""

from __future__ import annotations

import copy
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_interformer.features import SNAP, Features
from napari_interformer.image import Planes
from napari_interformer.model import resolve_device
from napari_interformer.prompts import Box

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from napari_interformer.image import Contrast
    from napari_interformer.model import InterFormer

log = logging.getLogger(__name__)

Plane = tuple[int, ...]
Tile = int | Literal["whole"] | None


@dataclass(frozen=True)
class Progress:
    """Where an encode stands, after a tile was finished.

    Attributes
    ----------
    done, total : int
        Tiles, those of earlier runs included.
    plane : tuple of int
        The plane the tile belongs to.
    seconds_left : float
        At the rate of this run.
    """

    done: int
    total: int
    plane: Plane
    seconds_left: float


def encode(
    image: Any,
    model: InterFormer,
    *,
    channel_axis: int | None = None,
    channels: Sequence[int] | None = None,
    contrast: Contrast = "auto",
    rgb: bool | None = None,
    store: str | Path | None = None,
    device: str | torch.device = "auto",
    tile: Tile = None,
    halo: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Features:
    """Encode an image or stack, plane by plane, once and for all clicks.

    Parameters
    ----------
    image, channel_axis, channels, contrast, rgb
        See `Planes.of`.
    model : InterFormer
        Stays where it is; a copy encodes on `device`.
    store : path, optional
        A zarr group to keep the features in; an encode that was stopped goes on there.
    device : str
        "auto" (the strongest there is), "cpu", "cuda", "mps".
    tile, halo : int, optional
        Side of the tiles in pixels, the model's training size if None, or "whole" for planes at once as the reference
        does; and how much of it is thrown away on each side, an eighth if None. Multiples of 32.
    progress : callable, optional
        Called with a `Progress` after each tile.
    cancelled : callable, optional
        Asked after each tile whether to stop; what is done by then is returned.

    Returns
    -------
    Features
        In memory, or in `store`.

    Raises
    ------
    ValueError
        If the image, its axes, the tiling or the device make no sense, or the store belongs to something else.
    OSError
        If a file cannot be read or the store cannot be written.
    """
    target = resolve_device(device)
    planes = Planes.of(image, channel_axis=channel_axis, channels=channels, contrast=contrast, rgb=rgb)
    features = room_for(planes, model, store=store, tile=tile, halo=halo)
    for step in encode_tiles(planes, features, model, device=target):
        if progress is not None:
            progress(step)
        if cancelled is not None and cancelled():
            break
    return features


def room_for(
    planes: Planes,
    model: InterFormer,
    *,
    store: str | Path | None = None,
    tile: Tile = None,
    halo: int | None = None,
) -> Features:
    """Make or open the features of an image without encoding anything; parameters as for `encode`."""
    if tile == "whole":
        return Features.create(planes, model, core=0, halo=0, store=store)
    side = model.config.window if tile is None else int(tile)
    halo = side // 8 // SNAP * SNAP if halo is None else int(halo)
    if side % SNAP or halo % SNAP or side <= 2 * halo or halo < 0:
        raise ValueError(
            f"tile and halo take multiples of {SNAP} with tile more than twice halo; got {tile} and {halo}."
        )
    if max(planes.size) <= side:  # one tile holds the plane
        return Features.create(planes, model, core=0, halo=0, store=store)
    return Features.create(planes, model, core=side - 2 * halo, halo=halo, store=store)


def encode_tiles(
    planes: Planes,
    features: Features,
    model: InterFormer,
    *,
    device: str | torch.device = "auto",
    first: Callable[[], Plane | None] | None = None,
) -> Iterator[Progress]:
    """Encode what is not encoded yet, tile by tile, and yield after each; whoever iterates may stop at any time.

    Parameters
    ----------
    planes : Planes
        The image that `features` were made for.
    features : Features
        Written to.
    model : InterFormer
        Stays where it is; a copy encodes on `device`.
    device : str
        As for `encode`.
    first : callable, optional
        Asked before each plane which one somebody is waiting for; None for the next in order.
    """
    target = resolve_device(device)
    worker = model if model.device == target else copy.deepcopy(model).to(target)
    waiting = [plane for plane in planes.plane_indices() if not features.ready(plane)]
    total = len(planes) * len(features.tiles)
    done = total - sum(len(_missing_tiles(features, plane)) for plane in waiting)
    began, fresh = time.monotonic(), 0
    while waiting:
        wanted = first() if first is not None else None
        plane = waiting.pop(waiting.index(wanted) if wanted in waiting else 0)
        for tile in _missing_tiles(features, plane):
            core = features.tiles[tile]
            maps, missing = encode_tile(planes, worker, plane, core, features.origin.halo)
            features.write(plane, tile, maps, missing)
            done, fresh = done + 1, fresh + 1
            rate = (time.monotonic() - began) / fresh
            yield Progress(done, total, plane, rate * (total - done))


def encode_tile(
    planes: Planes, model: InterFormer, plane: Plane, core: Box, halo: int
) -> tuple[list[NDArray[np.float32]], NDArray[np.bool_] | None]:
    """Encode a core with its halo.

    Returns
    -------
    maps : list of (C_i, h / s_i, w / s_i) float32
        Of the core.
    missing : (h, w) bool or None
        Where the core's pixels have no value; None for integer images.
    """
    image = Box.of(planes.size)
    box = Box(core.left - halo, core.top - halo, core.right + halo, core.bottom + halo).intersect(image)
    maps = model.encode_pixels(planes.read(plane, box)[None])
    cropped = []
    for level, stride in zip(maps, model.strides, strict=True):
        top, left = (core.top - box.top) // stride, (core.left - box.left) // stride
        height, width = core.height // stride, core.width // stride
        cropped.append(level[0, :, top : top + height, left : left + width])
    missing = None
    if planes.dtype.kind == "f":
        missing = ~np.isfinite(planes.raw(plane, core.intersect(image))).all(axis=2)
    return cropped, missing


def _missing_tiles(features: Features, plane: Plane) -> list[int]:
    return [i for i, core in enumerate(features.tiles) if not features.ready(plane, core)]
