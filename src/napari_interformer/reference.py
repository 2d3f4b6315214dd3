"""The reference label: what is known so far about each pixel, and how clicks, boxes and predictions change it.

The five-state map of InterFormer (Huang et al., ICCV 2023, section 3.3), as pure functions over NumPy arrays. Where
the person has the last word on what the network answers, the logits follow as well: `obey`, `fitting_cut`, `within`.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import binary_erosion

from napari_interformer.geometry import DIVISOR, Box, rounded_up

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from napari_interformer.geometry import BoolMask

    Reference = NDArray[np.uint8]


class State(IntEnum):
    """The five states of the reference label."""

    BACKGROUND = 0
    POSSIBLE_BACKGROUND = 1
    UNKNOWN = 2
    POSSIBLE_FOREGROUND = 3
    FOREGROUND = 4


# One row per prediction (background, foreground), one column per state.
FOLDED = np.array(
    [
        [
            State.BACKGROUND,
            State.POSSIBLE_BACKGROUND,
            State.POSSIBLE_BACKGROUND,
            State.UNKNOWN,
            State.FOREGROUND,
        ],
        [
            State.BACKGROUND,
            State.UNKNOWN,
            State.POSSIBLE_FOREGROUND,
            State.POSSIBLE_FOREGROUND,
            State.FOREGROUND,
        ],
    ],
    np.uint8,
)


def blank(shape: tuple[int, int]) -> Reference:
    """Return a reference label of `shape` (Y, X) on which nothing is known."""
    return np.full(shape, State.UNKNOWN, np.uint8)


def draw_click(
    reference: Reference, y: int, x: int, positive: bool, inner_radius: float, outer_radius: float = 0
) -> Reference:
    """Return `reference` with a click drawn in.

    Parameters
    ----------
    reference : (Y, X) uint8
        The states before the click.
    y, x : int
        The click, relative to `reference`; the disk may reach over its border.
    positive : bool
        Whether the pixel belongs to the object.
    inner_radius : float
        Pixels at most this far away (Euclidean) become sure.
    outer_radius : float
        A ring this much wider becomes possible; rings of both signs cancel to unknown.
    """
    reach = math.floor(inner_radius + outer_radius)
    box = Box(x - reach, y - reach, x + reach + 1, y + reach + 1).intersect(Box.of(reference.shape))
    drawn = reference.copy()
    if box.empty:
        return drawn
    rows, columns = np.ogrid[box.top : box.bottom, box.left : box.right]
    distance = (rows - y) ** 2 + (columns - x) ** 2
    states = drawn[box.slices]
    if outer_radius > 0:
        ring = distance <= (inner_radius + outer_radius) ** 2
        mine, theirs = (
            (State.POSSIBLE_FOREGROUND, State.POSSIBLE_BACKGROUND)
            if positive
            else (State.POSSIBLE_BACKGROUND, State.POSSIBLE_FOREGROUND)
        )
        unknown, opposed = ring & (states == State.UNKNOWN), ring & (states == theirs)
        states[unknown] = mine
        states[opposed] = State.UNKNOWN
    states[distance <= inner_radius**2] = State.FOREGROUND if positive else State.BACKGROUND
    return drawn


def fold(reference: Reference, mask: BoolMask) -> Reference:
    """Return `reference` after a prediction: states move one step towards `mask`; sure ones stay.

    A pixel on which two predictions disagree goes back to unknown. Both arrays are (Y, X).
    """
    return np.take(FOLDED.ravel(), reference + np.uint8(len(State)) * mask)


BAND = 2  # pixels on either side of an expected outline on which nothing is assumed


def expected(mask: BoolMask) -> Reference:
    """Return the reference label of an object that is possibly `mask` (Y, X): its neighbour's in a stack (not in the paper)."""
    reference = blank((mask.shape[0], mask.shape[1]))
    for part, state in ((mask, State.POSSIBLE_FOREGROUND), (~mask, State.POSSIBLE_BACKGROUND)):
        reference[binary_erosion(part, iterations=BAND, border_value=1)] = state
    return reference


def sure(reference: Reference) -> BoolMask:
    """Return where a click has settled the pixel, either way."""
    return np.asarray((reference == State.FOREGROUND) | (reference == State.BACKGROUND))


def region(known: BoolMask, *, expansion: float, min_size: int) -> Box:
    """Return the zoom-in region around what is known of an object (section 3.4 of the paper).

    The box of `known` (last mask or any sure pixel), grown by `expansion` about its centre, at least
    `min_size` pixels a side, clipped to the array, then snapped outward to multiples of `DIVISOR`.

    Parameters
    ----------
    known : (Y, X) bool
        Y and X multiples of `DIVISOR`.
    expansion, min_size
        See above; lengths in pixels.
    """
    box = Box.around(known)
    height, width = known.shape
    if box.empty:
        return Box.of((height, width))
    top, bottom = _grow(box.top, box.bottom, height, expansion, min_size)
    left, right = _grow(box.left, box.right, width, expansion, min_size)
    return Box(left, top, right, bottom)


def _grow(start: int, stop: int, length: int, expansion: float, min_size: int) -> tuple[int, int]:
    # Python's round, half to even, as in the reference.
    centre, half = (start + stop) / 2, max((stop - start) * expansion, min_size) / 2
    start, stop = max(0, round(centre - half)), min(length, round(centre + half))
    return start // DIVISOR * DIVISOR, min(length, rounded_up(stop))


# A click that the network does not follow bends its logits at least to this, and as far as this share of the way to the nearest
# pixel that agrees with it, but so many pixels at least (chosen on training images of dsb2018, see docs/training-log.md).
CERTAIN = 0.5
REACH = 0.75
NARROWEST = 0.6
ROUNDS = 3  # a bump can upset an older click next to it


def obey(logits: NDArray[np.float32], clicks: Iterable[tuple[int, int, bool]]) -> NDArray[np.float32]:
    """Return logits with the right sign at every click: the person has the last word (not in the paper).

    Where the network holds against a click, a Gaussian bump turns it round. People click the middle of an error, so
    the bump is as wide as it is far to the nearest pixel that agrees with the click.

    Parameters
    ----------
    logits : (Y, X) float32
        Foreground minus background.
    clicks : iterable of (y, x, positive)
        Relative to `logits`, oldest first: of two on one pixel the newer counts. Those outside are left out.
    """
    height, width = logits.shape
    plane = Box.of(logits.shape)
    latest = {(y, x): 1 if positive else -1 for y, x, positive in clicks if plane.has(y, x)}
    rows, columns = np.ogrid[:height, :width]
    bent = np.where(np.isnan(logits), np.float32(0), logits)  # or a bump there would make all of it NaN
    for _ in range(ROUNDS):
        for (y, x), sign in latest.items():
            if sign * bent[y, x] >= CERTAIN:
                continue
            distance = (rows - y) ** 2 + (columns - x) ** 2
            agreeing = distance[sign * bent > 0]
            reach = REACH * math.sqrt(agreeing.min(initial=height * width)) if agreeing.size else 1.0
            bump = np.exp(-distance / (2 * max(reach, NARROWEST) ** 2))
            bent = bent + ((sign * CERTAIN - bent[y, x]) * bump).astype(np.float32)
    for (y, x), sign in latest.items():
        bent[y, x] = sign * max(CERTAIN, sign * bent[y, x])
    return bent


# Cuts of the logits that are tried for a box, what one lower costs as a share of the box, and how much of it is enough, as
# people draw a little too wide (chosen on training images of dsb2018, see docs/training-log.md).
CUTS = -np.linspace(0, 2, 9)
CUT_COST = 0.05
ENOUGH = 0.8
# They draw a little too tightly as well: so far beyond the box, in shares of it, pixels count whose logits are above this.
BEYOND = 0.1
SURER = 0.5


def fitting_cut(logits: NDArray[np.float32], box: Box) -> float:
    """Return where to cut logits so that the mask fills a box, though no lower than need be (not in the paper).

    A box tells where the object ends on four sides, and so how far out its outline lies all around.

    Parameters
    ----------
    logits : (Y, X) float32
        Foreground minus background.
    box : Box
        Relative to `logits`; what lies outside does not count.
    """
    inside = logits[box.slices]
    sides = inside.max(axis=1), inside.max(axis=0)

    def filled(cut: float) -> float:
        share = 1.0
        for highest in sides:
            above = np.flatnonzero(highest > cut)
            share *= (above[-1] - above[0] + 1) / len(highest) if above.size else 0.0
        return share

    return float(max(CUTS, key=lambda cut: min(filled(cut), ENOUGH) + CUT_COST * cut))


def within(logits: NDArray[np.float32], box: Box, lowest: float) -> BoolMask:
    """Return the mask (Y, X) of logits for a box: those above `lowest` in it, and where they are surer, some beyond."""
    whole = Box.of(logits.shape)
    wide = box.grown(round(BEYOND * box.height), round(BEYOND * box.width))
    mask = np.zeros(logits.shape, bool)
    for part, cut_at in ((wide.intersect(whole), SURER), (box.intersect(whole), lowest)):
        if not part.empty:
            mask[part.slices] = logits[part.slices] > cut_at
    return mask
