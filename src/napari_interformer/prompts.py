"""What the user said: clicks, scribbles, boxes and masks, as plain values, and the order in which they count."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from napari_interformer.geometry import Box, line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from napari_interformer.geometry import BoolMask


@dataclass(frozen=True)
class Click:
    """One click: a pixel that belongs to the object, or does not.

    Attributes
    ----------
    plane : tuple of int
        The plane's indices: () in an image, (z,) in a stack, (t, z) in a series of stacks; for one, a number will do.
    y, x : int
        Row and column of the pixel in the image's own data, counted from 0.
    positive : bool
        Whether the pixel belongs to the object.
    """

    plane: tuple[int, ...]
    y: int
    x: int
    positive: bool = True

    def __post_init__(self) -> None:
        """Take a plane's number, or several in a list, too; refuse a sign that could mean anything."""
        object.__setattr__(self, "plane", _indices(self.plane))
        object.__setattr__(self, "positive", _sign(self.positive))
        for name, number in zip("yx", _plain((self.y, self.x)), strict=True):
            object.__setattr__(self, name, number)

    @classmethod
    def at(cls, position: Sequence[float], positive: bool = True) -> Click:
        """Build a click from a position such as (y, x) or (z, y, x) in data pixels.

        Raises
        ------
        ValueError
            If `position` is not a sequence of at least two finite numbers, or `positive` is neither True nor False.
        """
        try:
            *plane, y, x = (round(float(value)) for value in position)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(
                f"A click needs a position in pixels such as (y, x), or (z, y, x) in a stack; got {position!r}."
            ) from None
        return cls(tuple(plane), y, x, positive)

    @property
    def position(self) -> tuple[int, ...]:
        """Plane, row and column in one tuple."""
        return (*self.plane, self.y, self.x)

    @property
    def path(self) -> tuple[tuple[int, int], ...]:
        """Row and column, as of a scribble of one pixel."""
        return ((self.y, self.x),)

    @property
    def middle(self) -> Click:
        """Itself, as of a scribble of one pixel."""
        return self


@dataclass(frozen=True)
class Scribble:
    """A line drawn by hand on one plane: all of its pixels belong to the object, or none do.

    Attributes
    ----------
    plane : tuple of int
        The plane's indices, as of a `Click`.
    path : tuple of (int, int)
        Row and column, in pixels, of its ends and of where it bends; it is straight in between.
    positive : bool
        Whether its pixels belong to the object.
    """

    plane: tuple[int, ...]
    path: tuple[tuple[int, int], ...]
    positive: bool = True

    def __post_init__(self) -> None:
        """Take lists, too; refuse a line without a pixel, or a sign that could mean anything."""
        object.__setattr__(self, "plane", _indices(self.plane))
        object.__setattr__(self, "path", tuple((y, x) for y, x in map(_plain, self.path)))
        object.__setattr__(self, "positive", _sign(self.positive))
        if not self.path:
            raise ValueError("A scribble needs at least one position; got none: draw a line.")

    @classmethod
    def along(cls, positions: Iterable[Sequence[float]], positive: bool = True) -> Scribble:
        """Build a scribble from positions such as (y, x) or (z, y, x) in data pixels, in order.

        Raises
        ------
        ValueError
            If there are no positions, one is not a position in pixels, or they are on different planes; for `positive`, as for
            a click.
        """
        try:
            stops = [Click.at(position) for position in positions]
        except (TypeError, ValueError):
            raise ValueError(
                "A scribble needs a list of positions in pixels, such as [(y, x), (y, x)], or with (z, y, x) in a stack; got "
                f"{positions!r}."
            ) from None
        if len({stop.plane for stop in stops}) > 1:
            raise ValueError(
                f"A scribble needs positions on one plane; got {stops[0].position} and others: draw one for each plane."
            )
        path = tuple(pixel for pixel, _ in itertools.groupby((stop.y, stop.x) for stop in stops))
        return cls(stops[0].plane if stops else (), path, positive)

    @property
    def middle(self) -> Click:
        """The pixel half-way along, as a click."""
        pixels = line(self.path)
        return Click(self.plane, *pixels[len(pixels) // 2], self.positive)


@dataclass(frozen=True)
class BoxPrompt:
    """A rectangle drawn tightly around the object on one plane.

    Attributes
    ----------
    plane : tuple of int
        The plane's indices, as of a `Click`.
    box : Box
        In pixels, half-open: the last row and column within are `bottom` - 1 and `right` - 1.
    """

    plane: tuple[int, ...]
    box: Box

    def __post_init__(self) -> None:
        """Take any four numbers as the box, too."""
        object.__setattr__(self, "plane", _indices(self.plane))
        object.__setattr__(self, "box", Box(*_plain(self.box)))

    @classmethod
    def between(cls, corner: Sequence[float], opposite: Sequence[float]) -> BoxPrompt:
        """Build a box from the two pixels at its opposite corners: (y, x), or (z, y, x) in a stack.

        Raises
        ------
        ValueError
            If one is not a position in pixels, or they are on different planes.
        """
        try:
            first, last = Click.at(corner), Click.at(opposite)
        except ValueError:
            raise ValueError(
                f"A box needs two corners in pixels such as (y, x), or (z, y, x) in a stack; got {corner!r} and {opposite!r}."
            ) from None
        if first.plane != last.plane:
            raise ValueError(
                f"A box needs two corners on one plane; got {first.position} and {last.position}: draw one for each plane."
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
    """An object that is already there on one plane: a good guess to start from, not a certainty.

    Attributes
    ----------
    plane : tuple of int
        The plane's indices, as of a `Click`.
    box : Box
        Where `mask` lies, in pixels; the rest of the plane is not part of the object.
    mask : (box.height, box.width) bool
        The object's pixels in `box`, a read-only copy. Integers may be given: all but 0 belong to the object.
    """

    plane: tuple[int, ...]
    box: Box
    mask: BoolMask

    def __post_init__(self) -> None:
        """Refuse what is no mask, or does not fit the box."""
        given = np.asarray(self.mask)
        if given.dtype.kind not in "bui":
            raise TypeError(
                f"A mask must be an array of bool; got {given.dtype}: compare it with a threshold."
            )
        mask = given != 0  # always an array of its own
        mask.flags.writeable = False
        object.__setattr__(self, "plane", _indices(self.plane))
        object.__setattr__(self, "box", Box(*_plain(self.box)))
        object.__setattr__(self, "mask", mask)
        if self.mask.shape != self.box.shape:
            raise ValueError(
                f"A mask must have the size of its box, {self.box.shape}; got {self.mask.shape}."
            )


def _indices(plane: Any) -> tuple[int, ...]:
    """Return a plane's leading indices; if there is only one axis, a number will do."""
    return _plain(plane if np.iterable(plane) else (plane,))


def _plain(numbers: Iterable[Any]) -> tuple[Any, ...]:
    """Return NumPy's whole numbers, which may be too small to compute with, as Python's."""
    return tuple(int(number) if isinstance(number, np.integer) else number for number in numbers)


Mark = Click | Scribble  # pixels that are part of the object, or are not
Given = BoxPrompt | Mark  # by a person
Prompt = Given | Mask
P = TypeVar("P", bound=Prompt)


def plane_name(plane: tuple[int, ...]) -> str:
    """Name a plane for a person: its number, or several numbers in brackets."""
    return str(plane[0] if len(plane) == 1 else plane)


def plane_names(planes: Sequence[tuple[int, ...]]) -> str:
    """Name several planes, or one, in a sentence."""
    *others, last = map(plane_name, planes)
    return f"planes {', '.join(others)} and {last}" if others else f"plane {last}"


def planes_are(clicks: Iterable[Given]) -> str:
    """Name the planes that clicks are on, with the verb: "plane 3 is"."""
    planes = sorted({click.plane for click in clicks})
    if planes == [()]:
        return "the image is"
    return f"{plane_names(planes)} {'is' if len(planes) == 1 else 'are'}"


class NotEncodedError(LookupError):
    """The features of a part of the image were needed, but are not there yet.

    Attributes
    ----------
    plane : tuple of int
        Its leading indices.
    box : Box
        What was needed, in pixels of the padded plane.
    """

    def __init__(self, plane: tuple[int, ...], box: Box) -> None:
        super().__init__(plane, box)
        self.plane, self.box = plane, box

    def __str__(self) -> str:
        """Say what is missing, and what to do."""
        where = f"Plane {plane_name(self.plane)}" if self.plane else "The image"
        return f"{where} is not encoded at {tuple(self.box)} yet: encode it, or wait until that is done."


def in_order(prompts: Iterable[P]) -> tuple[P, ...]:
    """Return prompts in the order in which they count: boxes (each plane's newest) and masks, then clicks and scribbles."""
    prompts = tuple(prompts)
    newest = {prompt.plane: prompt for prompt in prompts if isinstance(prompt, BoxPrompt)}
    starts = [
        p for p in prompts if isinstance(p, Mask) or (isinstance(p, BoxPrompt) and newest[p.plane] is p)
    ]
    return (*starts, *(prompt for prompt in prompts if isinstance(prompt, Mark)))


def _sign(positive: Any) -> bool:
    if not isinstance(positive, bool | np.bool_):
        raise ValueError(
            f"positive must be True, for what belongs to the object, or False, for what does not; got {positive!r}."
        )
    return bool(positive)
