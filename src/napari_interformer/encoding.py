"""Planes to features: tiles, device, progress, cancel, resume.

A plane clearly larger than the model's window is encoded in tiles. Each tile is seen with a halo of its surroundings, of which
the features are thrown away; only the core is kept, and the cores lie side by side.
"""

from __future__ import annotations

import copy
import logging
import math
import operator
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from napari_interformer.cores import as_done, here
from napari_interformer.features import Features, Origin, cut_maps, padded
from napari_interformer.geometry import DIVISOR, Box, rounded_up
from napari_interformer.image import Plane, Planes, plane_of
from napari_interformer.model import resolve_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_interformer.image import Contrast, ImageLike
    from napari_interformer.model import InterFormer

log = logging.getLogger(__name__)

Part = Plane | tuple[Plane, Box | None]  # a plane, or a box of it
Tile = int | Literal["whole"] | None
Tiles = tuple[tuple[Plane, int], ...]
# A plane that is larger than a tile by no more than this is encoded as one: faster than tiles that overlap, and as good.
ONE = 1.25
# Tiles encoded at once, at most, and their pixels; halved where memory is short. On a processor a tile for each thread.
GPU_BATCH, GPU_PIXELS, CPU_PIXELS = 8, 8 * 1024**2, 8 * 256**2
_PATIENCE = 60.0  # seconds to wait for tiles of other processes, until they are made here, too
# So many tiles are looked for at a time, whether another process made them: all of them, before each batch, take longer.
_AT_A_LOOK = 64


class _Stopped(Exception):
    """Nobody wants the tiles at hand any more."""


@dataclass(frozen=True)
class Progress:
    """Where an encode stands, after a tile was finished.

    Attributes
    ----------
    done, total : int
        Tiles of what was asked for, those of earlier runs included.
    plane : tuple of int
        The plane the tile belongs to.
    seconds_left : float
        At the rate of this run.
    """

    done: int
    total: int
    plane: Plane
    seconds_left: float

    @classmethod
    def after(cls, seconds: float, total: int, before: int, left: int, plane: Plane) -> Progress:
        """Say how far it is if, after `seconds`, so many tiles of those that were left `before` are still left."""
        return cls(total - left, total, plane, seconds / max(before - left, 1) * left)


def encode(
    image: ImageLike,
    model: InterFormer,
    *,
    channel_axis: int | None = None,
    channels: int | Sequence[int] | None = None,
    contrast: Contrast = "auto",
    rgb: bool | None = None,
    axes: Sequence[str] | None = None,
    store: str | Path | None = None,
    device: str | torch.device = "auto",
    tile: Tile = None,
    halo: int | None = None,
    planes: Iterable[Part] | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Features:
    """Encode an image or stack, plane by plane, once and for all clicks.

    Parameters
    ----------
    image, channel_axis, channels, contrast, rgb, axes
        See `Planes.of`.
    model : InterFormer
        Stays where it is; a copy encodes on `device`.
    store : path, optional
        A zarr group to keep the features in; an encode that was stopped goes on there. In memory if None, or, if they
        would take more than a gigabyte, in a temporary folder.
    device : str
        "auto" (the strongest there is), "cpu", "cuda", "mps".
    tile, halo : int, optional
        Side of the tiles in pixels, the model's training size if None, or "whole" for planes at once as the reference
        does; and how much of it is thrown away on each side, an eighth if None. Multiples of 32. With neither given, a
        store that exists goes on with its own, and a plane that is hardly larger than a tile is encoded at once.
    planes : iterable, optional
        Which planes, as leading indices (in a stack, numbers will do), or (plane, box) for the tiles that a box touches;
        all if None.
    progress : callable, optional
        Called with a `Progress` after each tile.
    cancelled : callable, optional
        Asked at each tile, and while one is made, whether to stop; what is done by then is returned.

    Returns
    -------
    Features
        In memory, or in `store`.

    Raises
    ------
    TypeError, ValueError
        If the image, its axes, the tiling or the device make no sense, or the store belongs to something else.
    OSError
        If a file cannot be read or the store cannot be written; finished tiles are kept.
    MemoryError
        If not even a single tile fits into memory.
    """
    if not hasattr(model, "fingerprint"):
        raise TypeError(
            f"encode takes an image and a model, in this order; got {type(model).__name__} for the model: load it with "
            "load_model."
        )
    target = resolve_device(device)
    source = Planes.of(
        image, channel_axis=channel_axis, channels=channels, contrast=contrast, rgb=rgb, axes=axes
    )
    only = None if planes is None else _parts(planes, source.leading)
    features = room_for(source, model, store=store, tile=tile, halo=halo)
    try:
        for step in encode_tiles(source, features, model, device=target, only=only, cancelled=cancelled):
            if progress is not None:
                progress(step)
    finally:
        source.release()
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
    chosen = tile is not None or halo is not None
    if tile == "whole":
        if halo is not None:
            raise ValueError(
                f"halo is how far tiles overlap, and with tile='whole' there are none; got {halo}: leave one of them out."
            )
        return Features.create(planes, model, core=0, halo=0, store=store)
    if isinstance(tile, str):
        raise ValueError(f'tile takes a multiple of {DIVISOR}, "whole" or None; got {tile!r}.')
    side: Any = model.config.window if tile is None else tile
    margin: Any = halo
    try:
        if margin is None:  # small windows, too, need to see beyond a core
            margin = max(side // 8 // DIVISOR, 1 if side >= 4 * DIVISOR else 0) * DIVISOR
        fit = margin % DIVISOR == side % DIVISOR == 0 and 0 <= 2 * margin < side
    except TypeError:  # no numbers
        fit = False
    if not fit:
        raise ValueError(
            f"tile and halo take multiples of {DIVISOR}, with tile more than twice halo; got {side} and {margin}."
        )
    height, width = padded(planes.size)
    more = 1 if chosen else ONE
    if max(height, width) <= more * side and height * width <= more * side**2:  # one tile holds the plane
        side = margin = 0
    core = int(side - 2 * margin)
    return Features.create(planes, model, core=core, halo=int(margin), store=store, any_tiling=not chosen)


def encode_tiles(
    planes: Planes,
    features: Features,
    model: InterFormer,
    *,
    device: str | torch.device = "auto",
    first: Callable[[], Part | None] | None = None,
    only: Iterable[Part] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Iterator[Progress]:
    """Encode what is not encoded yet, tile by tile, and yield after each; whoever iterates may stop at any time.

    Meanwhile others are in the making, for which other processes wait a minute at most: close the generator to give them back.
    Several processes may encode into one store: each takes tiles that no other works at, and waits in the end for those
    of the others.

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
        Asked before each batch of tiles what somebody is waiting for: a plane, or (plane, box) with the pixels that they
        look at, whose tiles come first and then the nearest; None for the next in order.
    only : iterable, optional
        Planes to encode, or (plane, box) for the tiles that a box touches; all if None.
    cancelled : callable, optional
        Asked at each tile, and before each layer of those that are being made, whether to stop.

    Raises
    ------
    ValueError
        If the features were made for another image, contrast or model, or `only` names a plane that is not there.
    TypeError
        If `only` is no list of planes and boxes.
    OSError
        If pixels cannot be read or features not be written; finished tiles are kept.
    MemoryError
        If a single tile is too large for the device.
    """
    target = resolve_device(device)
    _check_origin(planes, features, model)
    left = _Left(planes, features, only)
    worker = _on(model, target) if left else model
    log.info("encoding %d of %d tiles on %s", len(left), left.total, target)
    pixels = _pixels(features)
    on_cpu = target.type == "cpu"
    at_once = max(1, min(here(), CPU_PIXELS // pixels)) if on_cpu else 1
    batch = 1 if on_cpu else max(1, min(GPU_BATCH, GPU_PIXELS // pixels))
    before, began = len(left), time.monotonic()

    def stop() -> None:
        if cancelled is not None and cancelled():
            raise _Stopped

    with suppress(_Stopped):
        while left:
            stop()
            work = partial(_maps, worker, at_once)
            with (
                closing(_Jobs(planes, left, features, first, batch)) as jobs,
                closing(as_done(work, jobs, pixels, stop, at_once)) as made,
            ):
                for job, maps in made:
                    if maps is None:
                        at_once, batch = max(1, at_once // 2), max(1, batch // 2)
                        log.info("memory of %s is short: %d tiles at once from here", target, at_once * batch)
                        break
                    _write(features, job, maps)
                    jobs.over(job)
                    for plane, _ in job.tiles:
                        left.made()
                        yield Progress.after(time.monotonic() - began, left.total, before, len(left), plane)
                        stop()
        if only is None:
            features.finish()


class _Job(NamedTuple):
    """Tiles that are encoded together, with their pixels and halos, as read and as the model sees them; or why not."""

    tiles: Tiles
    raw: list[NDArray[Any]]
    pixels: list[NDArray[np.float32]]
    short: MemoryError | None = None


class _Jobs:
    """What to encode next, a few tiles at a time; None while others have all.

    No other process gets them until they are over. Whoever asks for them reads: not every image bears several threads.
    """

    def __init__(
        self,
        planes: Planes,
        left: _Left,
        features: Features,
        first: Callable[[], Part | None] | None,
        batch: int,
    ) -> None:
        self._planes = planes
        self._left, self._features, self._first, self._batch = left, features, first, batch
        self._claims: dict[Tiles, ExitStack] = {}
        self._busy = time.monotonic()

    def __iter__(self) -> _Jobs:
        return self

    def __next__(self) -> _Job | None:
        if not self._left.idle:
            raise StopIteration
        wanted = self._first() if self._first is not None else None
        job: list[tuple[Plane, int]] = []
        with ExitStack() as claims:
            for plane, tiles in self._left.due(wanted):
                taken: list[int] = []
                for alike in self._alike(tiles, job):
                    taken = claims.enter_context(self._features.claim(plane, alike, self._batch - len(job)))
                    if taken:
                        break
                if not (job or taken) and time.monotonic() - self._busy > _PATIENCE:
                    taken = tiles[:1]  # whoever has it hangs; that it may be made twice does no harm
                job += [(plane, tile) for tile in taken]
                # What somebody waits for does not wait for tiles of other planes.
                if len(job) == self._batch or (job and plane == _part(wanted)[0]):
                    break
            if not job:
                return None
            self._busy = time.monotonic()
            chosen = tuple(job)
            self._left.take(chosen)
            self._claims[chosen] = claims.pop_all()
        return self._read(chosen)

    def _read(self, tiles: Tiles) -> _Job:
        planes, features = self._planes, self._features
        boxes = [(plane, tile_box(features.tiles[tile], features)) for plane, tile in tiles]
        try:
            raw = [planes.raw(plane, box) for plane, box in boxes]
            pixels = [planes.normalised(one, plane) for one, (plane, _) in zip(raw, boxes, strict=True)]
        except MemoryError as error:
            return _Job(tiles, [], [], error)
        return _Job(tiles, raw, pixels)

    def _alike(self, tiles: list[int], job: Sequence[tuple[Plane, int]]) -> list[list[int]]:
        """Return groups of tiles of one size, which make a batch; only those that go with a job, if it has any."""
        if self._batch == 1:
            return [tiles]
        shapes: dict[tuple[int, int], list[int]] = {}
        for tile in tiles:
            shapes.setdefault(tile_box(self._features.tiles[tile], self._features).shape, []).append(tile)
        if not job:
            return list(shapes.values())
        same = tile_box(self._features.tiles[job[0][1]], self._features).shape
        return [shapes[same]] if same in shapes else []

    def over(self, job: _Job) -> None:
        """Let others see to the tiles of a job."""
        self._busy = time.monotonic()
        self._claims.pop(job.tiles).close()

    def close(self) -> None:
        """Give back all that is not over."""
        for tiles, claims in self._claims.items():
            self._left.put_back(tiles)
            claims.close()
        self._claims.clear()


class _Left:
    """The tiles that are asked for and not encoded yet; its length is their number.

    Attributes
    ----------
    total : int
        Tiles that are asked for, encoded or not.
    """

    def __init__(self, planes: Planes, features: Features, only: Iterable[Part] | None) -> None:
        self._features = features
        self._cores = np.array(features.tiles)
        self._left: dict[Plane, NDArray[np.bool_]] = {}
        for plane, box in _parts(planes.plane_indices() if only is None else only, planes.leading):
            self._left.setdefault(plane, np.zeros(len(self._cores), bool))[features.touched(box)] = True
        self.total = sum(int(np.count_nonzero(asked)) for asked in self._left.values())
        for plane, asked in self._left.items():
            left = features.unfinished(plane, np.flatnonzero(asked).tolist())
            asked[:] = False
            asked[left] = True
        self._count = sum(int(np.count_nonzero(left)) for left in self._left.values())
        self._taken = 0
        self._last: Plane | None = None
        self._looked_at: Part | None = None
        self._order: NDArray[np.int_] = np.arange(len(self._cores))

    def __len__(self) -> int:
        return self._count

    @property
    def idle(self) -> int:
        """How many nobody here works at."""
        return self._count - self._taken

    def due(self, wanted: Part | None) -> Iterator[tuple[Plane, list[int]]]:
        """Yield tiles of a plane, some at a time: where somebody waits, where tiles were made last, then in order."""
        where, box = _part(wanted)
        for plane in dict.fromkeys(p for p in (where, self._last, *self._left) if p in self._left):
            order = self._nearest(plane, box) if box is not None and plane == where else None
            left = np.flatnonzero(self._left[plane]) if order is None else order[self._left[plane][order]]
            for first in range(0, len(left), _AT_A_LOOK):
                # Others may write to the features, too.
                due = left[first : first + _AT_A_LOOK].tolist()
                tiles = self._features.unfinished(plane, due)
                others = list(set(due) - set(tiles))
                self._left[plane][others] = False
                self._count -= len(others)
                if tiles:
                    self._last = plane
                    yield plane, tiles
            if not self._left[plane].any():
                del self._left[plane]

    def take(self, tiles: Tiles) -> None:
        """Note that somebody works at tiles, which are not due then."""
        for plane, tile in tiles:
            self._left[plane][tile] = False
        self._taken += len(tiles)

    def put_back(self, tiles: Tiles) -> None:
        """Make tiles due again that were taken."""
        for plane, tile in tiles:
            self._left.setdefault(plane, np.zeros(len(self._cores), bool))[tile] = True
        self._taken -= len(tiles)

    def made(self) -> None:
        """Count one of the tiles that were taken as made."""
        self._taken -= 1
        self._count -= 1

    def _nearest(self, plane: Plane, box: Box) -> NDArray[np.int_]:
        """Sort all tiles by how far their cores lie from a box, and then from its middle; kept until another is asked for."""
        if self._looked_at != (plane, box):
            left, top, right, bottom = self._cores.T
            aside = np.maximum(0, np.maximum(left - box.right, box.left - right))
            above = np.maximum(0, np.maximum(top - box.bottom, box.top - bottom))
            across, along = left + right - box.left - box.right, top + bottom - box.top - box.bottom
            self._order = np.lexsort((across**2 + along**2, aside**2 + above**2))
            self._looked_at = (plane, box)
        return self._order


def _parts(asked: Any, leading: tuple[int, ...]) -> list[tuple[Plane, Box | None]]:
    """Return planes that are there, and of each the box that is asked for (None for all of it)."""
    if not np.iterable(asked):
        raise TypeError(f"planes takes a list of planes, such as [(0,), (1,)]; got {asked!r}.")
    return [(plane_of(plane, leading), box) for plane, box in map(_part, asked)]


def _part(asked: Any) -> tuple[Any, Box | None]:
    """Tell the plane (None if nothing is asked for) and the box (None for all of it)."""
    if isinstance(asked, tuple) and len(asked) == 2 and any(p is None or isinstance(p, tuple) for p in asked):
        plane, box = asked
        try:
            return plane, None if box is None else Box(*map(operator.index, box))
        except TypeError:
            raise TypeError(f"A box takes (left, top, right, bottom); got {box!r}.") from None
    return asked, None


def _pixels(features: Features) -> int:
    """Return how many pixels are encoded for a tile, at most."""
    most = features.origin.side or math.inf
    return int(math.prod(min(length, most) for length in features.padded))


def _maps(
    model: InterFormer, at_once: int, job: _Job, before_layer: Callable[[], None]
) -> list[NDArray[np.float32]] | None:
    """Return the maps of a job's tiles, (B, C_i, h / s_i, w / s_i), with their halos; None if memory is short for `at_once`."""
    try:
        if job.short is not None:
            raise job.short
        return model.encode_pixels(np.stack(job.pixels), before_layer)
    except (MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        if at_once * len(job.tiles) > 1:
            return None
        size = " x ".join(map(str, job.raw[0].shape[:2])) + " pixels" if job.raw else "the image"
        raise MemoryError(
            f"A tile of {size} is too large for the memory of {model.device}: encode with a smaller tile or on another device."
        ) from error


def _write(features: Features, job: _Job, maps: Sequence[NDArray[np.float32]]) -> None:
    for i, (plane, tile) in enumerate(job.tiles):
        core = features.tiles[tile]
        box = tile_box(core, features)
        own = cut_maps([level[i] for level in maps], features.origin.strides, core, box)
        inside = core.intersect(Box.of(features.size)).shift(-box.top, -box.left).slices
        missing = np.isnan(job.raw[i][inside]).any(axis=2) if features.origin.floating else None
        features.write(plane, tile, own, missing)


def tile_box(core: Box, features: Features) -> Box:
    """Return the pixels that are encoded for a core: with its halo, as far as there is an image.

    Where that is less than half a tile, as at the end of a row or column, it begins earlier: the model was trained on no less.
    """
    if features.origin.core == 0:
        return Box.of(features.size)
    halo = features.origin.halo
    side = features.origin.side
    box = core.grown(halo, halo).intersect(Box.of(features.size))
    left, top = (
        max((end - side // 2) // DIVISOR * DIVISOR, rounded_up(end - side)) for end in (box.right, box.bottom)
    )
    return Box(max(0, min(box.left, left)), max(0, min(box.top, top)), box.right, box.bottom)


def _check_origin(planes: Planes, features: Features, model: InterFormer) -> None:
    origin = features.origin
    asked = Origin.of(planes, model, core=origin.core, halo=origin.halo)
    if different := origin.differences(asked):
        raise ValueError(
            f"These features were made for another {' and '.join(different)}: make room for this one with room_for."
        )


def _on(model: InterFormer, device: torch.device) -> InterFormer:
    """Return the model, or a copy of it, on a device and ready to encode."""
    same = (model.device.type, model.device.index or 0) == (device.type, device.index or 0)
    if same and not model.training:
        return model
    return copy.deepcopy(model).to(device).eval()


def _is_memory(error: BaseException) -> bool:
    # For the CPU, PyTorch raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(error)
