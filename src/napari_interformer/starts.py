"""What objects start from while a network learns: from nothing, or from a mask that is nearly right.

Enters: the objects of a batch. Leaves: their reference labels with a first click. On most planes of a stack the network is
asked about a neighbour's mask (`volume`), and an object that is edited starts from its own; clicks on nothing teach neither
(not in the paper).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from napari_interformer.batch_clicks import draw_clicks, expected_all, fold_all, next_clicks, squared_depths
from napari_interformer.reference import State

if TYPE_CHECKING:
    from torch import Tensor

    from napari_interformer.batch_clicks import Clicks
    from napari_interformer.model import InterFormerConfig

# How far an outline moves out or in: at most all around, and here and there (a standard deviation), as shares of the object's
# depth, which counts as at least so many pixels. Masks then overlap with their object about as two planes of a synthetic stack.
GROWN, BENT, SHALLOWEST = 0.35, 0.25, 4.0
BENDS = 12  # numbers along each side of a window that say how far


def begin(
    targets: Tensor, ignored: Tensor, share: float, config: InterFormerConfig, generator: torch.Generator
) -> tuple[Tensor, Clicks]:
    """Return where objects start.

    Parameters
    ----------
    targets, ignored : (N, Y, X) bool
        The objects, and pixels on which no error counts.
    share : float
        How many of them start from a mask: half of these as on a plane that an object is carried to, with a click where the
        mask is deepest; half as when an object is edited, with a click into the error.
    config : InterFormerConfig
        How large a click is drawn.
    generator : torch.Generator
        Which of them, from what, and where the errors are clicked on.

    Returns
    -------
    references : (N, Y, X) uint8
        With the click drawn in.
    clicks : Clicks
        The first one of each.
    """
    # On nothing, the first click is at the deepest point (as the method has it).
    clicks = next_clicks(torch.zeros_like(targets), targets)
    states = torch.full(targets.shape, State.UNKNOWN, dtype=torch.uint8, device=targets.device)
    if share:
        chance = torch.rand(len(targets), generator=generator, device=targets.device)
        masks = nearly(targets, generator) & ~ignored
        inside = next_clicks(torch.zeros_like(masks), masks)
        each = torch.arange(len(targets), device=targets.device)
        carried = (chance < share / 2) & inside.found & targets[each, inside.y, inside.x]
        wrong = next_clicks(masks, targets, generator)
        edited = (chance >= share / 2) & (chance < share) & wrong.found
        clicks = inside.where(carried, wrong.where(edited, clicks))
        states = torch.where(edited[:, None, None], fold_all(states, masks), states)
        states = torch.where(carried[:, None, None], expected_all(masks), states)
    return draw_clicks(states, clicks, config.inner_radius, config.outer_radius), clicks


def nearly(targets: Tensor, generator: torch.Generator) -> Tensor:
    """Return masks (N, Y, X) bool like the objects' on a neighbouring plane: grown or shrunk, with bent outlines."""
    count, height, width = targets.shape
    inside = squared_depths(targets, closed=False).sqrt()
    outside = squared_depths(~targets, closed=False).sqrt()
    signed = torch.where(targets, inside - 0.5, 0.5 - outside)  # the outline lies between pixels
    device = targets.device
    bends = torch.randn(count, 1, BENDS, BENDS, generator=generator, device=device)
    bends = F.interpolate(bends, size=(height, width), mode="bicubic", align_corners=True)[:, 0]
    growth = 2 * torch.rand(count, 1, 1, generator=generator, device=device) - 1
    moved = GROWN * growth + BENT * bends
    return signed + moved * inside.amax((1, 2), keepdim=True).clamp_min(SHALLOWEST) > 0
