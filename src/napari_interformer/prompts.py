"""What the user said, and what follows for every pixel: clicks, scribbles, boxes and the reference label.

Plain values and pure functions over NumPy arrays. The reference label is the five-state map of
InterFormer (Huang et al., ICCV 2023, section 3.3): what is known so far about each pixel.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    Reference = NDArray[np.uint8]
    BoolMask = NDArray[np.bool_]


DIVISOR = 32  # planes are padded to multiples of this, on which tiles, windows and regions begin and end


class State(IntEnum):
    """The five states of the reference label."""

    BACKGROUND = 0
    POSSIBLE_BACKGROUND = 1
    UNKNOWN = 2
    POSSIBLE_FOREGROUND = 3
    FOREGROUND = 4


class Box(NamedTuple):
    """A half-open rectangle of pixels, in the reference's order: columns first."""

    left: int
    top: int
    right: int
    bottom: int

    @classmethod
    def of(cls, shape: tuple[int, int]) -> Box:
        """Return the box that covers a whole plane of `shape` (Y, X)."""
        return cls(0, 0, shape[1], shape[0])

    @classmethod
    def around(cls, mask: BoolMask) -> Box:
        """Return the smallest box that holds every True pixel of `mask` (Y, X); empty where there is none."""
        rows = np.flatnonzero(mask.any(axis=1))
        if rows.size == 0:
            return cls(0, 0, 0, 0)
        columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
        return cls(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)

    @property
    def height(self) -> int:
        """Rows covered."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns covered."""
        return self.right - self.left

    @property
    def extent(self) -> int:
        """How large what it just holds is across: the longer of its sides."""
        return max(self.height, self.width)

    @property
    def empty(self) -> bool:
        """Whether no pixel is covered."""
        return self.height <= 0 or self.width <= 0

    @property
    def slices(self) -> tuple[slice, slice]:
        """Row and column slices for indexing a plane."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def holds(self, other: Box) -> bool:
        """Whether `other` lies inside this box (an empty one always does)."""
        return other.empty or self.union(other) == self

    def union(self, other: Box) -> Box:
        """Return the smallest box that holds both; an empty box adds nothing."""
        if self.empty or other.empty:
            return other if self.empty else self
        return Box(
            min(self.left, other.left),
            min(self.top, other.top),
            max(self.right, other.right),
            max(self.bottom, other.bottom),
        )

    def intersect(self, other: Box) -> Box:
        """Return the pixels that both cover; may be empty."""
        return Box(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )

    def shift(self, rows: int, columns: int) -> Box:
        """Return the box moved by `rows` and `columns` pixels."""
        return Box(self.left + columns, self.top + rows, self.right + columns, self.bottom + rows)

    def grown(self, rows: int, columns: int) -> Box:
        """Return the box with `rows` pixels more above and below, and `columns` more to the left and right."""
        return Box(self.left - columns, self.top - rows, self.right + columns, self.bottom + rows)

    @property
    def snapped(self) -> Box:
        """The box grown outward to multiples of `DIVISOR`."""
        left, top = (edge // DIVISOR * DIVISOR for edge in self[:2])
        right, bottom = map(rounded_up, self[2:])
        return Box(left, top, right, bottom)


@dataclass(frozen=True)
class Click:
    """One click: which plane (leading indices), which pixel, and whether it belongs to the object."""

    plane: tuple[int, ...]
    y: int
    x: int
    positive: bool = True

    @classmethod
    def at(cls, position: Sequence[float], positive: bool = True) -> Click:
        """Build a click from a position such as (y, x) or (z, y, x) in data pixels.

        Raises
        ------
        ValueError
            If it is no sequence of at least two finite numbers, or `positive` is neither True nor False.
        """
        try:
            *plane, y, x = (round(float(value)) for value in position)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(
                f"A click takes a position in pixels such as (y, x), or (z, y, x) in a stack; got {position!r}."
            ) from None
        return cls(tuple(plane), y, x, _sign(positive))

    @property
    def position(self) -> tuple[int, ...]:
        """Plane, row and column in one tuple."""
        return (*self.plane, self.y, self.x)

    @property
    def path(self) -> tuple[tuple[int, int], ...]:
        """Row and column, as of a scribble of one pixel."""
        return ((self.y, self.x),)


@dataclass(frozen=True)
class Scribble:
    """A line drawn by hand on one plane: all of its pixels belong to the object, or none does.

    `path` has the row and column of its ends and of where it bends; it is straight in between.
    """

    plane: tuple[int, ...]
    path: tuple[tuple[int, int], ...]
    positive: bool = True

    @classmethod
    def along(cls, positions: Iterable[Sequence[float]], positive: bool = True) -> Scribble:
        """Build a scribble from positions such as (y, x) or (z, y, x) in data pixels, in order.

        Raises
        ------
        ValueError
            If there is none, one is no position in pixels, or they are on different planes; for `positive`, as a click.
        """
        try:
            stops = [Click.at(position) for position in positions]
        except (TypeError, ValueError):
            raise ValueError(
                f"A scribble takes positions in pixels such as (y, x), or (z, y, x) in a stack; got {positions!r}."
            ) from None
        if not stops:
            raise ValueError("A scribble takes at least one position; got none: draw a line.")
        if len({stop.plane for stop in stops}) > 1:
            raise ValueError(
                f"A scribble takes positions on one plane; got {stops[0].position} and others: draw one for each plane."
            )
        path = tuple(pixel for pixel, _ in itertools.groupby((stop.y, stop.x) for stop in stops))
        return cls(stops[0].plane, path, _sign(positive))

    @property
    def middle(self) -> Click:
        """The pixel half-way along, as a click."""
        pixels = line(self.path)
        return Click(self.plane, *pixels[len(pixels) // 2], self.positive)


@dataclass(frozen=True)
class BoxPrompt:
    """A rectangle drawn tightly around the object on one plane."""

    plane: tuple[int, ...]
    box: Box

    @classmethod
    def between(cls, corner: Sequence[float], opposite: Sequence[float]) -> BoxPrompt:
        """Build a box from two pixels that it holds, at opposite corners: (y, x), or (z, y, x) in a stack.

        Raises
        ------
        ValueError
            If one is no position in pixels, or they are on different planes.
        """
        try:
            first, last = Click.at(corner), Click.at(opposite)
        except ValueError:
            raise ValueError(
                f"A box takes two corners in pixels such as (y, x), or (z, y, x) in a stack; got {corner!r} and {opposite!r}."
            ) from None
        if first.plane != last.plane:
            raise ValueError(
                f"A box takes two corners on one plane; got {first.position} and {last.position}: draw one for each plane."
            )
        (top, bottom), (left, right) = sorted((first.y, last.y)), sorted((first.x, last.x))
        return cls(first.plane, Box(left, top, right + 1, bottom + 1))

    @property
    def corners(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Row and column of the first and of the last pixel within."""
        return (self.box.top, self.box.left), (self.box.bottom - 1, self.box.right - 1)

    @property
    def middle(self) -> Click:
        """The pixel in the middle, as a click."""
        return Click(self.plane, (self.box.top + self.box.bottom) // 2, (self.box.left + self.box.right) // 2)


@dataclass(frozen=True, eq=False)
class Mask:
    """An object that is there already on one plane: a good guess to start from, not a certainty.

    `mask` is bool, the size of `box`; pixels of the plane outside `box` are not part of the object.
    """

    plane: tuple[int, ...]
    box: Box
    mask: BoolMask

    def __post_init__(self) -> None:
        """Refuse an array that does not fit the box."""
        if self.mask.shape != (self.box.height, self.box.width):
            raise ValueError(
                f"A mask takes an array of its box's size, {(self.box.height, self.box.width)}; got {self.mask.shape}."
            )


Mark = Click | Scribble  # pixels that are part of the object, or are not
Given = BoxPrompt | Mark  # by a person
Prompt = Given | Mask
P = TypeVar("P", bound=Prompt)


def name_of(plane: tuple[int, ...]) -> str:
    """Name a plane to people: its number, or several in brackets."""
    return str(plane[0] if len(plane) == 1 else plane)


def names_of(planes: Sequence[tuple[int, ...]]) -> str:
    """Name several planes, or one, in a sentence."""
    *others, last = map(name_of, planes)
    return f"planes {', '.join(others)} and {last}" if others else f"plane {last}"


class NotEncodedError(LookupError):
    """A part of the image was asked for whose features are not there yet.

    Attributes
    ----------
    plane : tuple of int
        Its leading indices.
    box : Box
        What was asked for, in pixels of the padded plane.
    """

    def __init__(self, plane: tuple[int, ...], box: Box) -> None:
        super().__init__(plane, box)
        self.plane, self.box = plane, box

    def __str__(self) -> str:
        """Say what is not there, and what to do."""
        where = f"Plane {name_of(self.plane)}" if self.plane else "The image"
        return f"{where} is not encoded at {tuple(self.box)} yet; encode it, or wait until that is done."


def in_order(prompts: Iterable[P]) -> tuple[P, ...]:
    """Return prompts as they count: boxes and masks before clicks and scribbles, of each plane's boxes the newest alone."""
    prompts = tuple(prompts)
    newest = {prompt.plane: prompt for prompt in prompts if isinstance(prompt, BoxPrompt)}
    starts = [
        p for p in prompts if isinstance(p, Mask) or (isinstance(p, BoxPrompt) and newest[p.plane] is p)
    ]
    return (*starts, *(prompt for prompt in prompts if isinstance(prompt, Mark)))


def _sign(positive: Any) -> bool:
    if not isinstance(positive, bool | np.bool_):
        raise ValueError(
            f"positive takes True, for what belongs to the object, or False, for what does not; got {positive!r}."
        )
    return bool(positive)


def line(path: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the row and column of all pixels on a path, in order, none twice in a row."""
    pixels = [path[0]]
    for (y, x), (end_y, end_x) in itertools.pairwise(path):
        steps = max(abs(end_y - y), abs(end_x - x))
        rows, columns = (np.rint(np.linspace(*ends, steps + 1)[1:]) for ends in ((y, end_y), (x, end_x)))
        pixels += zip(rows.astype(int).tolist(), columns.astype(int).tolist(), strict=True)
    return pixels


def cut(array: NDArray[Any], box: Box, window: Box, fill: Any) -> NDArray[Any]:
    """Return what `window` shows of an array that covers `box`, with `fill` beyond it."""
    if box == window:
        return array
    out = np.full((window.height, window.width), fill, array.dtype)
    both = box.intersect(window)
    if not both.empty:
        out[both.shift(-window.top, -window.left).slices] = array[both.shift(-box.top, -box.left).slices]
    return out


def paste(array: NDArray[Any], box: Box, onto: NDArray[Any], whole: Box) -> NDArray[Any]:
    """Return `onto`, which covers `whole`, with an array that covers `box` put in."""
    out = onto.copy()
    out[box.shift(-whole.top, -whole.left).slices] = array
    return out


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
    box = Box(x - reach, y - reach, x + reach + 1, y + reach + 1).intersect(Box.of(_shape(reference)))
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


def fold(reference: Reference, mask: BoolMask) -> Reference:
    """Return `reference` after a prediction: states move one step towards `mask`; sure ones stay.

    A pixel on which two predictions disagree goes back to unknown. Both arrays are (Y, X).
    """
    return np.take(FOLDED.ravel(), reference + np.uint8(len(State)) * mask)


# A click that the network does not follow bends its logits at least to this, and as far as this share of the way to
# the nearest pixel that agrees with it (chosen on training images of dsb2018, see docs/training-log.md).
CERTAIN = 0.5
REACH = 0.75


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
    latest = {
        (y, x): 1 if positive else -1 for y, x, positive in clicks if 0 <= y < height and 0 <= x < width
    }
    rows, columns = np.ogrid[:height, :width]
    bent = logits
    for _ in range(3):  # a bump can upset an older click next to it
        for (y, x), sign in latest.items():
            if sign * bent[y, x] >= CERTAIN:
                continue
            distance = (rows - y) ** 2 + (columns - x) ** 2
            agreeing = distance[sign * bent > 0]
            reach = REACH * math.sqrt(agreeing.min(initial=height * width)) if agreeing.size else 1.0
            bump = np.exp(-distance / (2 * max(reach, 0.6) ** 2))
            bent = bent + ((sign * CERTAIN - bent[y, x]) * bump).astype(np.float32)
    bent = bent.copy()
    for (y, x), sign in latest.items():
        bent[y, x] = sign * max(sign * bent[y, x], CERTAIN)
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
    whole = Box.of(_shape(logits))
    wide = box.grown(round(BEYOND * box.height), round(BEYOND * box.width))
    mask = np.zeros(logits.shape, bool)
    for part, cut_at in ((wide.intersect(whole), SURER), (box.intersect(whole), lowest)):
        if not part.empty:
            mask[part.slices] = logits[part.slices] > cut_at
    return mask


def rounded_up(length: float) -> int:
    """Return the next multiple of `DIVISOR`."""
    return -(-int(length) // DIVISOR) * DIVISOR


def placed(centre: float, side: int, length: int) -> int:
    """Return where a window of that side begins: on the grid of `DIVISOR`, about the centre, within a length."""
    return min(max(round((centre - side / 2) / DIVISOR) * DIVISOR, 0), length - side)


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


def _shape(plane: NDArray[np.generic]) -> tuple[int, int]:
    height, width = plane.shape
    return height, width
