"""Planes to features: tiles, device, progress, cancel, resume.

A plane larger than the model's window is encoded in tiles. Each tile is seen with a halo of its surroundings, of which
the features are thrown away; only the core is kept, and the cores lie side by side.
"""

from __future__ import annotations

import copy
import logging
import math
import operator
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from napari_interformer import cores
from napari_interformer.cores import side_by_side
from napari_interformer.features import Features, Origin, cut_maps, padded
from napari_interformer.geometry import DIVISOR, Box
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
# A plane that is larger than a tile by no more than this is encoded as one: faster than tiles that overlap, and as good.
ONE = 1.25
# Tiles encoded at once, at most, and their pixels; halved where memory is short. On a processor a tile for each thread.
GPU_BATCH, GPU_PIXELS, CPU_PIXELS = 8, 8 * 1024**2, 8 * 256**2
# Where nobody waits for any of them, each thread makes so many before all threads meet.
IN_A_ROW = 5
# Seconds to wait for tiles of other processes, and until they are made here, too.
_NAP, _PATIENCE = 0.02, 60.0
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
    most, pixels = (cores.here(), CPU_PIXELS) if target.type == "cpu" else (GPU_BATCH, GPU_PIXELS)
    at_once = batch = max(1, min(most, pixels // _pixels(features)))
    if target.type == "cpu" and first is None and at_once > 1:
        batch = at_once * IN_A_ROW
    before, began = len(left), time.monotonic()
    busy = began

    def stop() -> None:
        if cancelled is not None and cancelled():
            raise _Stopped

    with suppress(_Stopped):
        while left:
            stop()
            mine: list[tuple[Plane, int]] = []
            with ExitStack() as claims:
                for plane, tiles in left.due(first() if first is not None else None):
                    due = tiles if target.type == "cpu" else _alike(tiles, features, mine)
                    taken = claims.enter_context(features.claim(plane, due, batch - len(mine)))
                    if not (mine or taken) and time.monotonic() - busy > _PATIENCE:
                        taken = due[:1]  # whoever has it hangs; that it may be made twice does no harm
                    mine += [(plane, tile) for tile in taken]
                    if len(mine) == batch:
                        break
                made = _make(planes, features, worker, mine, at_once, stop) if mine else []
            if not mine:
                time.sleep(_NAP)  # others work at all that is left
                continue
            busy = time.monotonic()
            if not made:
                batch = at_once = min(at_once, len(mine)) // 2 or 1
                log.info("memory of %s is short: %d tiles at once from here", target, batch)
            for plane, tile in made:
                left.made(plane, tile)
                yield Progress.after(time.monotonic() - began, left.total, before, len(left), plane)
                stop()
        if only is None:
            features.finish()


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
        self._last: Plane | None = None
        self._looked_at: Part | None = None
        self._order: NDArray[np.int_] = np.arange(len(self._cores))

    def __len__(self) -> int:
        return self._count

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
                self._take_off(plane, set(due) - set(tiles))
                if tiles:
                    self._last = plane
                    yield plane, tiles
            if not self._left[plane].any():
                del self._left[plane]

    def made(self, plane: Plane, tile: int) -> None:
        """Take a tile off."""
        self._take_off(plane, {tile})

    def _take_off(self, plane: Plane, tiles: set[int]) -> None:
        self._left[plane][list(tiles)] = False
        self._count -= len(tiles)

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
    most = features.origin.core + 2 * features.origin.halo if features.origin.core else math.inf
    return int(math.prod(min(length, most) for length in features.padded))


def _alike(tiles: Sequence[int], features: Features, taken: Sequence[tuple[Plane, int]]) -> list[int]:
    """Return those tiles of which as many pixels are encoded as of those that are taken, or of the first."""
    boxes = [tile_box(features.tiles[tile], features) for _, tile in taken[:1]]
    boxes += [tile_box(features.tiles[tile], features) for tile in tiles]
    return [
        tile for tile, box in zip(tiles, boxes[-len(tiles) :], strict=True) if box.shape == boxes[0].shape
    ]


def _make(
    planes: Planes,
    features: Features,
    model: InterFormer,
    tiles: Sequence[tuple[Plane, int]],
    at_once: int,
    before_layer: Callable[[], None],
) -> list[tuple[Plane, int]]:
    """Encode and write some tiles, on a GPU of one size; return which, none if memory was too short."""
    boxes = {(plane, tile): tile_box(features.tiles[tile], features) for plane, tile in tiles}
    size = max((box.shape for box in boxes.values()), key=math.prod)
    try:
        raw = [planes.raw(plane, box) for (plane, _), box in boxes.items()]
        pixels = [planes.normalised(one, plane) for (plane, _), one in zip(boxes, raw, strict=True)]
        if model.device.type == "cpu":
            maps = side_by_side(
                lambda one, ask: model.encode_pixels(one[None], ask),
                pixels,
                math.prod(size),
                before_layer,
                at_once,
            )
        else:
            together = model.encode_pixels(np.stack(pixels), before_layer)
            maps = [[level[i : i + 1] for level in together] for i in range(len(pixels))]
    except (MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        if len(tiles) > 1:
            return []
        raise MemoryError(
            f"A tile of {size[0]} x {size[1]} pixels is too large for the memory of {model.device}: encode with a smaller "
            "tile or on another device."
        ) from error
    for ((plane, tile), box), one, levels in zip(boxes.items(), raw, maps, strict=True):
        core = features.tiles[tile]
        own = cut_maps([level[0] for level in levels], features.origin.strides, core, box)
        inside = core.intersect(Box.of(features.size)).shift(-box.top, -box.left).slices
        missing = np.isnan(one[inside]).any(axis=2) if features.origin.floating else None
        features.write(plane, tile, own, missing)
    return list(boxes)


def tile_box(core: Box, features: Features) -> Box:
    """Return the pixels that are encoded for a core: with its halo, as far as there is an image.

    The last ones of a row or column, which may be narrow, see at least half a tile, the smallest that the model was trained on.
    """
    if features.origin.core == 0:
        return Box.of(features.size)
    halo = features.origin.halo
    least = (features.origin.core + 2 * halo) // 2 // DIVISOR * DIVISOR
    right, bottom = min(core.right + halo, features.padded[1]), min(core.bottom + halo, features.padded[0])
    left, top = max(0, min(core.left - halo, right - least)), max(0, min(core.top - halo, bottom - least))
    return Box(left, top, right, bottom).intersect(Box.of(features.size))


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
