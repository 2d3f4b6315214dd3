"""Clicks on many objects at once, on the device where their masks are: for training.

What `simulate.next_click` and `reference.draw_click`, `fold` and `obey` do for one object in NumPy, in PyTorch for a batch;
tests hold the two together. A GPU would wait longer for NumPy than it computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_interformer.geometry import depth
from napari_interformer.reference import CERTAIN, FOLDED, NARROWEST, REACH, ROUNDS, State

if TYPE_CHECKING:
    from torch import Tensor

AT_ONCE = 2**25  # numbers of `all_columns` at a time
DEPTH_RATIO = 1.7  # while training, a click falls anywhere deeper than the deepest point's depth over this


@dataclass(frozen=True)
class Clicks:
    """One click for each of N objects.

    Attributes
    ----------
    y, x : (N,) int64
        Where, relative to the object's window.
    positive, found : (N,) bool
        Whether the pixel belongs to the object, and whether there is a click at all.
    """

    y: Tensor
    x: Tensor
    positive: Tensor
    found: Tensor

    def first(self, count: int) -> Clicks:
        """Return the clicks of the first `count` objects."""
        return Clicks(self.y[:count], self.x[:count], self.positive[:count], self.found[:count])

    def squared_distances(self, shape: tuple[int, int]) -> Tensor:
        """Return how far every pixel is from its object's click, squared: (N, Y, X) int64."""
        rows = torch.arange(shape[0], device=self.y.device)[:, None]
        columns = torch.arange(shape[1], device=self.y.device)
        return (rows - self.y[:, None, None]) ** 2 + (columns - self.x[:, None, None]) ** 2


def next_clicks(masks: Tensor, targets: Tensor, generator: torch.Generator | None = None) -> Clicks:
    """Click into the deeper of the two error regions of each object; see `simulate.next_click`.

    Parameters
    ----------
    masks, targets : (N, Y, X) bool
        What was predicted and what is true.
    generator : torch.Generator, optional
        If given, a random pixel among the deep ones (training); otherwise the deepest.

    Returns
    -------
    Clicks
        Not found where mask and target agree.
    """
    missed, wrong = squared_depths(torch.stack([targets & ~masks, masks & ~targets])).flatten(2)
    positive = missed.amax(1) > wrong.amax(1)
    depths = torch.where(positive[:, None], missed, wrong)
    deepest = depths.amax(1)
    if generator is not None:
        chance = torch.rand(depths.shape, generator=generator, device=depths.device)
        depths = torch.where(depths > deepest[:, None] / DEPTH_RATIO**2, 1 + chance, 0)
    chosen = depths.argmax(1)
    width = masks.shape[2]
    return Clicks(chosen // width, chosen % width, positive, deepest > 0)


def squared_depths(regions: Tensor) -> Tensor:
    """Return each pixel's squared distance to the nearest one outside its region, exactly; borders count as outside.

    Parameters
    ----------
    regions : (..., Y, X) bool
        Many planes.

    Returns
    -------
    Tensor
        (..., Y, X) float32.
    """
    planes = regions.reshape(-1, *regions.shape[-2:])
    transform = _plane_by_plane if planes.device.type == "cpu" else all_columns
    return transform(planes).view(regions.shape)


def _plane_by_plane(planes: Tensor) -> Tensor:
    """Return squared depths (N, Y, X) by SciPy, which takes a tenth of the time that `all_columns` takes on a CPU."""
    out = np.zeros(planes.shape, np.float32)
    for plane, squares in zip(planes.numpy(), out, strict=True):
        box, depths = depth(plane)
        squares[box.slices] = np.rint(depths**2)  # they are whole numbers
    return torch.from_numpy(out)


def all_columns(planes: Tensor) -> Tensor:
    """Return squared depths (N, Y, X) as a GPU does: along columns by running extremes, then by trying every column."""
    height, width = planes.shape[1:]
    rows = torch.arange(height, device=planes.device, dtype=torch.int32)[:, None]
    above = torch.where(planes, -1, rows).cummax(1).values
    below = torch.where(planes, height, rows).flip(1).cummin(1).values.flip(1)
    along = torch.minimum(rows - above, below - rows).float().square()
    columns = torch.arange(width, device=planes.device, dtype=torch.float32)
    apart = (columns[:, None] - columns) ** 2
    edge = torch.minimum(columns + 1, width - columns) ** 2
    out = [
        torch.minimum((part[:, :, None] + apart).amin(-1), edge)
        for part in torch.split(along, max(1, AT_ONCE // (height * width**2)))
    ]
    return torch.cat(out)


def draw_clicks(references: Tensor, clicks: Clicks, inner_radius: float, outer_radius: float = 0) -> Tensor:
    """Return the reference labels (N, Y, X) uint8 with a click drawn into each; see `reference.draw_click`."""
    distance = clicks.squared_distances((references.shape[1], references.shape[2]))
    positive = clicks.positive[:, None, None]
    found = clicks.found[:, None, None]
    drawn = references
    if outer_radius > 0:
        ring = found & (distance <= (inner_radius + outer_radius) ** 2)
        mine = torch.where(positive, State.POSSIBLE_FOREGROUND, State.POSSIBLE_BACKGROUND).byte()
        theirs = torch.where(positive, State.POSSIBLE_BACKGROUND, State.POSSIBLE_FOREGROUND).byte()
        drawn = torch.where(ring & (references == State.UNKNOWN), mine, drawn)
        drawn = torch.where(ring & (references == theirs), drawn.new_tensor(State.UNKNOWN), drawn)
    known = torch.where(positive, State.FOREGROUND, State.BACKGROUND).byte()
    return torch.where(found & (distance <= inner_radius**2), known, drawn)


def fold_all(references: Tensor, masks: Tensor) -> Tensor:
    """Return the reference labels (N, Y, X) uint8 after predictions (N, Y, X) bool; see `reference.fold`."""
    table = torch.from_numpy(FOLDED.ravel()).to(references.device)
    return table[references.int() + len(State) * masks.int()]


def obey_all(logits: Tensor, history: list[Clicks]) -> Tensor:
    """Return logits (N, Y, X) float32 with the right sign at every click; see `reference.obey`.

    `history` holds one click of each object after the other, oldest first; no object is clicked twice on one pixel.
    """
    shape = (logits.shape[1], logits.shape[2])
    each = torch.arange(len(logits), device=logits.device)
    bent = torch.where(logits.isnan(), 0, logits)
    for _ in range(ROUNDS):
        for clicks in history:
            sign = 2.0 * clicks.positive - 1
            value = bent[each, clicks.y, clicks.x]
            distance = clicks.squared_distances(shape).float()
            agreeing = torch.where(sign[:, None, None] * bent > 0, distance, torch.inf).amin((1, 2))
            reach = torch.where(
                agreeing.isfinite(), REACH * agreeing.clamp_max(shape[0] * shape[1]).sqrt(), 1.0
            )
            bump = torch.exp(-distance / (2 * reach.clamp_min(NARROWEST)[:, None, None] ** 2))
            against = clicks.found & (sign * value < CERTAIN)
            bent = bent + torch.where(against, sign * CERTAIN - value, 0)[:, None, None] * bump
    for clicks in history:
        sign = 2.0 * clicks.positive - 1
        value = bent[each, clicks.y, clicks.x]
        bent[each, clicks.y, clicks.x] = torch.where(
            clicks.found, sign * (sign * value).clamp_min(CERTAIN), value
        )
    return bent
