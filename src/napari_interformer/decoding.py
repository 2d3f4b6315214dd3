"""Prompts become masks: in which window, at which magnification, and what the network says there.

Enters: the features of an image, the image itself where it is at hand, and an object's prompts in order. Leaves: a `Step` for
each prompt. There is no annotation state in here: the same prompts give the same masks.
"""

from __future__ import annotations

import copy
import itertools
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy.ndimage import label as number_parts

from napari_interformer.cores import few, watched
from napari_interformer.features import padded
from napari_interformer.geometry import DIVISOR, Box, cut, line, paste, placed, rounded_up
from napari_interformer.image import Planes
from napari_interformer.prompts import BoxPrompt, Click, Mark, Mask, Scribble, in_order
from napari_interformer.reference import (
    State,
    blank,
    draw_click,
    expected,
    fitting_cut,
    fold,
    obey,
    region,
    sure,
    within,
)
from napari_interformer.scales import FINEST, level_for, maps_at, size_at, to_image, to_working, working

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from numpy.typing import NDArray

    from napari_interformer.features import Features
    from napari_interformer.geometry import BoolMask
    from napari_interformer.image import Plane
    from napari_interformer.model import InterFormerConfig
    from napari_interformer.prompts import Prompt
    from napari_interformer.reference import Reference

# A window grows with its object up to this many training windows a side; beyond, only the part around the newest
# click is decoded again.
LARGEST_WINDOW = 4
CUT = 2.0  # logit; what lies between it and its negative is in doubt
# Shares of a mask beyond doubt: below DOUBTFUL, the next magnifications are tried until one is STEADY; below LOST, all of
# them. Chosen on drawn objects and on training images of dsb2018.
LOST, DOUBTFUL, STEADY = 0.12, 0.25, 0.35
NO_LIMIT = 2**30  # pixels, of a window's side
LEAST_PLANE = 64  # pixels; a plane is not shrunk to less
# Levels that are tried: each takes four times as long as the one before.
NEXT, FARTHER = (-1, FINEST, -2, -3), (-4, -5, -6)
SPECK = 8  # working pixels; what is smaller at a level is not looked at from farther away
LOOSE = 0.05  # of a mask's largest part; what is smaller and not marked is dropped
ANSWERS = 3  # to a guess, one after the other; chosen on stacks, as the numbers of `volume`
# Working pixels between those of a scribble that the reference label gets; see docs/training-log.md.
SPACING = 6


class Decoder(Protocol):
    """What answering takes of a model."""

    @property
    def config(self) -> InterFormerConfig:
        """Click radius, window and region sizes."""

    @property
    def fingerprint(self) -> str:
        """Which features it can decode."""

    @property
    def decoder_fingerprint(self) -> str:
        """How it decodes them."""

    @property
    def strides(self) -> tuple[int, int, int, int]:
        """Strides of its feature maps in pixels."""

    def encode_pixels(self, pixels: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
        """Encode (B, Y, X, 3), for objects that are seen at another magnification."""

    def prepare_maps(self, maps: Sequence[NDArray[np.float32]]) -> Any:
        """Compute what no click changes in a window."""

    def decode_logits(self, maps: Any, reference: Reference, roi: Box | None = None) -> NDArray[np.float32]:
        """Return foreground minus background logits of a window."""


@dataclass(frozen=True, eq=False)
class View:
    """What the network works on: a window of a plane at a magnification (see `scales`), in working pixels.

    `reference` (uint8 states) and `mask` (bool) cover `box`; outside it nothing is known and nothing is masked. `steadiness`
    tells how little the mask depends on where the logits are cut: the share of it that a higher cut leaves, from 0 to 1.
    """

    level: int
    box: Box
    reference: Reference
    mask: BoolMask
    steadiness: float = 1.0


@dataclass(frozen=True, eq=False)
class Step:
    """What is known of the object on one plane after one prompt.

    `mask` (bool) covers `box`, in pixels of the image; outside it nothing is masked. `prompts` are all of this plane so
    far, this one included.
    """

    prompts: tuple[Prompt, ...]
    box: Box
    mask: BoolMask
    view: View

    def __post_init__(self) -> None:
        self.mask.flags.writeable = False  # whoever asks a session sees it, and `undo` brings it back

    @property
    def prompt(self) -> Prompt:
        """The newest."""
        return self.prompts[-1]


Steps = tuple[Step, ...]


def image_of(features: Features, image: Any) -> Planes | None:
    """Return the image of features as it was encoded; if None is given, the one that they know of, if they do.

    Raises
    ------
    ValueError
        If it is another image.
    """
    planes = features.source if image is None else Planes.of(image)
    if planes is None:
        return None
    if image is None and planes.refilled:
        raise ValueError(
            "The array that was encoded has other pixels now: encode it again, or give image= with the pixels of then."
        )
    if planes.fingerprint != features.image_fingerprint:
        raise ValueError(
            "image must be the image that was encoded, with its channels; got another one: leave it out, or encode it first."
        )
    return planes.with_contrast(features.contrast)  # as everything else was encoded


def _in_use(model: Decoder) -> Decoder:
    """Return a model, or a copy that does not answer at random if it is being trained."""
    if not getattr(model, "training", False):
        return model
    still: Any = copy.deepcopy(model)
    answering: Decoder = still.eval()
    return answering


class Decoding:
    """Answers prompts on one image.

    Parameters
    ----------
    features : Features
        Planes may still be missing.
    model : Decoder
        The model that made the features.
    image : Planes, optional
        The image as it was encoded, with which objects are seen at other magnifications, too.
    """

    def __init__(self, features: Features, model: Decoder, image: Planes | None = None) -> None:
        self.features, self.model = features, _in_use(model)
        self.image = image if model.config.diameters else None
        self._prepared: OrderedDict[tuple[Plane, int, Box], Any] = OrderedDict()
        self._lock = threading.Lock()

    def steps(self, prompts: Iterable[Prompt], size: float | None = None, before: Steps = ()) -> Steps:
        """Answer an object's prompts; safe to call from several threads.

        Parameters
        ----------
        prompts : iterable of Click, Scribble, BoxPrompt or Mask
            In order; boxes and masks count before clicks and scribbles, and of each plane's boxes the newest.
        size : float, optional
            How large the object is across, in pixels; found out from the first answer if None.
        before : tuple of Step
            Answers of before, with the same size: taken as they are where all prompts of their plane up to theirs are the same.

        Returns
        -------
        tuple of Step
            One for each prompt that counts.

        Raises
        ------
        TypeError, ValueError
            If a prompt is none, lies outside the image, or on a pixel without a value.
        NotEncodedError
            If that part of the image is not encoded yet.
        """
        known = {step.prompts: step for step in before}  # a step follows from its plane's prompts so far
        asked = {step.prompt for step in before}  # checked when they were answered
        steps: list[Step] = []
        latest: dict[Plane, Step] = {}
        with few(self.model.config.window**2):
            for prompt in in_order(one if _known(one, asked) else self._checked(one) for one in prompts):
                # A mask or a box begins its plane anew.
                previous = latest.get(prompt.plane) if isinstance(prompt, Mark) else None
                so_far = _so_far(previous, prompt)
                step = known.get(so_far) or self._inside(self._answer(previous, prompt, size))
                latest[prompt.plane] = step
                steps.append(step)
        return tuple(steps)

    def guess(self, start: Mask, click: Click, level: int) -> tuple[Box, NDArray[np.float32]]:
        """Decode an object that is possibly `start`, unknown near its outline and sure at `click`; no state changes.

        Each answer is folded into what is known, and the network asked again: at first it keeps to `start`, later to the image.

        Parameters
        ----------
        start : Mask
            What is possible.
        click : Click
            On the same plane.
        level : int
            The magnification (see `scales`).

        Returns
        -------
        box : Box
            In pixels of the image.
        logits : (Y, X) float32
            Of that box.
        """
        config = self.model.config
        box, mask = to_working(start.mask, start.box, level)
        window = self._window(box, None, level)
        mask = cut(mask, box, window, False)
        y, x = working(click.y, level) - window.top, working(click.x, level) - window.left
        reference = draw_click(expected(mask), y, x, click.positive, config.inner_radius, config.outer_radius)
        with few(config.window**2):
            prepared = self._prepare(click.plane, level, window)
            for _ in range(ANSWERS):
                roi = region(
                    mask | sure(reference), expansion=config.zoom_expansion, min_size=config.zoom_min_size
                )
                logits = self._logits(prepared, reference, roi)
                mask, reference = mask | (logits > 0), fold(reference, logits > 0)
        box, fine = to_image(obey(logits, [(y, x, click.positive)]), window, level)
        inside = box.intersect(Box.of(self.features.size))
        return inside, fine[: inside.height, : inside.width]

    def _checked(self, prompt: Prompt) -> Prompt:
        """Refuse what is no prompt for this image; return it without what lies outside, or, of a mask, is empty."""
        if not isinstance(prompt, Mark | BoxPrompt | Mask):
            raise TypeError(
                f"A session takes clicks, scribbles, boxes and masks; got {prompt!r}: Click.at makes a click from a position."
            )
        leading = tuple(self.features.leading)
        inside = len(prompt.plane) == len(leading) and all(
            0 <= i < n for i, n in zip(prompt.plane, leading, strict=True)
        )
        if isinstance(prompt, Mask):
            return self._checked_mask(prompt, inside)
        if isinstance(prompt, BoxPrompt):
            return self._checked_box(prompt, inside)
        return self._checked_mark(prompt, inside)

    def _checked_mask(self, prompt: Mask, inside: bool) -> Mask:
        if not inside or not Box.of(self.features.size).holds(prompt.box):
            raise ValueError(
                f"A mask needs a plane and a box inside the image {self.features.shape}; got {prompt.box}."
            )
        tight = Box.around(prompt.mask).shift(prompt.box.top, prompt.box.left)
        # How large the object is decides from how far away it is seen.
        if not tight.empty and tight != prompt.box:
            return Mask(prompt.plane, tight, cut(prompt.mask, prompt.box, tight, False))
        return prompt

    def _checked_box(self, prompt: BoxPrompt, inside: bool) -> BoxPrompt:
        if not all(isinstance(n, int | np.integer) for n in (*prompt.plane, *prompt.box)):
            raise ValueError(f"A box needs whole numbers; got {prompt}: BoxPrompt.between rounds them.")
        seen = prompt.box.intersect(Box.of(self.features.size))
        if not inside or seen.empty:
            raise ValueError(
                f"A box needs pixels inside the image of shape {tuple(self.features.shape)}; got {prompt.box} on plane "
                f"{prompt.plane}: draw it on the image."
            )
        prompt = replace(prompt, box=seen)
        if not self.features.valid(prompt.plane, prompt.middle.y, prompt.middle.x):
            raise ValueError(
                f"A box needs pixels with a value; the image is NaN in the middle of {seen}: draw it elsewhere."
            )
        return prompt

    def _checked_mark(self, prompt: Mark, inside: bool) -> Mark:
        name, make, do = (
            ("click", "Click.at", "click")
            if isinstance(prompt, Click)
            else ("scribble", "Scribble.along", "draw")
        )
        for stop in prompt.path:
            if not all(isinstance(n, int | np.integer) for n in (*prompt.plane, *stop)):
                raise ValueError(
                    f"A {name} needs whole numbers; got {(*prompt.plane, *stop)}: {make} rounds them."
                )
        there = prompt.path
        if not all(Box.of(self.features.size).has(*stop) for stop in there):
            there = _piece(there, self.features.size)
        if not inside or not there:
            raise ValueError(
                f"A {name} needs a position inside the image of shape {tuple(self.features.shape)}; got "
                f"{(*prompt.plane, *prompt.path[0])}: {do} on the image."
            )
        if isinstance(prompt, Scribble) and there != prompt.path:
            prompt = replace(prompt, path=there)  # people draw beyond the edge
        for y, x in prompt.path:
            if not self.features.valid(prompt.plane, y, x):
                raise ValueError(
                    f"A {name} needs a pixel with a value; the image is NaN at {(*prompt.plane, y, x)}: {do} elsewhere."
                )
        return prompt

    def _answer(self, previous: Step | None, prompt: Prompt, size: float | None) -> Step:
        """Return the step after `previous` (None where the prompt begins its plane), at the level that suits the object."""
        level = self._first_level(prompt, size) if previous is None else previous.view.level
        step = self._answer_at(level, previous, prompt)
        if previous is None and step is not None and self._size_is_open(prompt, size):
            step = self._steadier(step) if step.view.steadiness < DOUBTFUL else step
            level = step.view.level
        prompts = _so_far(previous, prompt)
        turned = 0
        while (turn := -1 if step is None else self._turn(step)) and turn != -turned:
            level, turned = level + turn, turn
            seen = self._replay(level, prompts)
            if step is not None and turn > 0:
                if seen is None or seen.view.steadiness < step.view.steadiness / 2:
                    break  # its clicks lie too far apart for that, or it falls apart
            step = seen
        assert step is not None  # in a plane shrunk to one window everything fits
        return step

    def _steadier(self, step: Step) -> Step:
        """Return a first click's answer at the nearest level where it is steady; `step` if there is none.

        At a wrong magnification the network sees a speck or a texture, and hesitates where it ends.
        """
        for level in (*NEXT, *(FARTHER if step.view.steadiness < LOST else ())):
            if min(self._padded(level)) < LEAST_PLANE:
                continue
            other = self._answer_at(level, None, step.prompt)
            if other is None:
                continue
            if other.view.steadiness >= STEADY:
                return other
            if level < 0 and Box.around(other.view.mask).extent < SPECK:
                break
        return step

    def _size_is_open(self, prompt: Prompt, size: float | None) -> bool:
        return self.image is not None and size is None and isinstance(prompt, Mark) and prompt.positive

    def _replay(self, level: int, prompts: Iterable[Prompt]) -> Step | None:
        """Answer all prompts of a plane at a level; None if the object is too large for that."""
        step: Step | None = None
        for prompt in prompts:
            step = self._answer_at(level, step, prompt)
            if step is None:
                return None
        return step

    def _first_level(self, prompt: Prompt, size: float | None) -> int:
        if not isinstance(prompt, Mark):
            size = prompt.box.extent
        if self.image is None or size is None:
            return 0
        return level_for(min(size, max(self.features.size)), self.model.config.diameters)

    def _turn(self, step: Step) -> int:
        """Return 1 if the object is so small that it should be magnified, -1 if it is too large, else 0."""
        if self.image is None or not isinstance(step.prompt, Mark):
            return 0
        view, extent = step.view, Box.around(step.view.mask).extent
        least, most = self.model.config.diameters
        # Or nothing would be seen from farther away.
        smaller = max(size_at(self.features.size, view.level)) > most
        if (extent > most and smaller) or self._wider(view.box, view.mask, view.level, NO_LIMIT) != view.box:
            return -1
        return int(0 < extent < least and view.level < FINEST)

    def _answer_at(self, level: int, previous: Step | None, prompt: Prompt) -> Step | None:
        """Return the step after `previous`, at a level; None where the object is too large for that."""
        if not isinstance(prompt, Mark):
            filled = np.ones(prompt.box.shape, bool)
            box, mask = to_working(prompt.mask if isinstance(prompt, Mask) else filled, prompt.box, level)
            window = self._window(box, None, level)
            if not window.holds(box) and self.image is not None:
                return None
            window = window.union(box).snapped.intersect(Box.of(self._padded(level)))
            if isinstance(prompt, BoxPrompt):
                return self._fill(prompt, box, window, level)
            mask = cut(mask, box, window, False)
            view = View(level, window, fold(blank(mask.shape), mask), mask)
            shown = (window, mask) if level == 0 else (prompt.box, prompt.mask)
            return Step((prompt,), *shown, view)
        before = None if previous is None else previous.view
        pixels, radius = _pixels(prompt, level), self.model.config.inner_radius
        (top, left), (bottom, right) = np.min(pixels, 0).tolist(), np.max(pixels, 0).tolist()
        known = Box(left, top, right + 1, bottom + 1).grown(radius, radius)
        known = known.intersect(Box.of(self._padded(level)))
        if before is not None:
            seen = Box.around(before.mask | sure(before.reference))
            known = known.union(seen.shift(before.box.top, before.box.left))
        window = self._window(known, None if before is None else before.box, level)
        if not window.holds(known):
            if self.image is not None:
                return None
            # Too large to decode at once, and no image to see it from farther away: renew what lies around the newest.
            y, x = pixels[len(pixels) // 2]
            window = self._window(Box.pixel(y, x), None, level, LARGEST_WINDOW)
        while True:
            step = self._decode(previous, prompt, window, level)
            inside = step.view.box == window
            wider = self._wider(window, step.view.mask, level, self._limit) if inside else window
            if wider == window:
                return step
            window = wider

    def _fill(self, prompt: BoxPrompt, box: Box, window: Box, level: int) -> Step:
        """Return the step of a box, `box` in working pixels: what a click in its middle says, as far out as fills it.

        What follows starts from that mask as from any other: the middle is no more certain than the rest.
        """
        config, middle = self.model.config, prompt.middle
        y, x = working(middle.y, level) - window.top, working(middle.x, level) - window.left
        reference = blank(window.shape)
        reference = draw_click(reference, y, x, True, config.inner_radius, config.outer_radius)
        logits = self._logits(self._prepare(prompt.plane, level, window), reference)
        inside = box.shift(-window.top, -window.left)
        lowest = fitting_cut(logits, inside)
        if not (logits[inside.slices] > lowest).any():
            logits, lowest = obey(logits, [(y, x, True)]), 0.0
        mask = _largest_part(within(logits, inside, lowest))
        view = View(level, window, fold(blank(window.shape), mask), mask)
        if level == 0:
            return Step((prompt,), window, mask, view)
        cut_at = np.float32(lowest)
        # Where it is positive: all that counts is there.
        around, fine = to_image(logits - cut_at, window, level)
        shifted = prompt.box.shift(-around.top, -around.left)
        return Step((prompt,), around, _largest_part(within(fine + cut_at, shifted, lowest)), view)

    def _decode(self, previous: Step | None, mark: Mark, window: Box, level: int) -> Step:
        config = self.model.config
        reference = blank(window.shape)
        known = np.zeros(window.shape, bool)
        before = None if previous is None else previous.view
        if before is not None:
            reference = cut(before.reference, before.box, window, State.UNKNOWN)
            known = cut(before.mask, before.box, window, False)
        prompts = _so_far(previous, mark)
        marked = [
            [(y - window.top, x - window.left, one.positive) for y, x in _pixels(one, level)]
            for one in prompts
            if isinstance(one, Mark)
        ]
        # A scribble is told as clicks in a row, its middle among them: these the network has learnt.
        newest = marked[-1]
        for pixel in newest[len(newest) // 2 % SPACING :: SPACING]:
            reference = draw_click(reference, *pixel, config.inner_radius, config.outer_radius)
        roi = None
        if before is not None:
            roi = region(
                known | sure(reference), expansion=config.zoom_expansion, min_size=config.zoom_min_size
            )
        logits = self._logits(self._prepare(mark.plane, level, window), reference, roi)
        steadiness = int(np.count_nonzero(logits > CUT)) / max(1, int(np.count_nonzero(logits > -CUT)))
        pixels = list(itertools.chain.from_iterable(marked))
        # Parts of what somebody finished before are no specks.
        grown = any(isinstance(one, Mask) for one in prompts)
        logits = _without_specks(obey(logits, pixels), pixels, known & grown)
        mask = logits > 0
        view = View(level, window, fold(reference, mask), mask, steadiness)
        if level != 0:
            return Step(prompts, *_in_image(logits, window, level, prompts), view)
        if before is not None and np.count_nonzero(known) < np.count_nonzero(before.mask):
            # What lies beyond the window stays as it was.
            whole = window.union(before.box)
            reference = cut(before.reference, before.box, whole, State.UNKNOWN)
            mask = cut(before.mask, before.box, whole, False)
            view = View(
                level,
                whole,
                paste(view.reference, window, reference, whole),
                paste(view.mask, window, mask, whole),
            )
        # A long line may lie beyond the window.
        return Step(prompts, *_with_marks(view.box, view.mask, prompts), view)

    def _padded(self, level: int) -> tuple[int, int]:
        return padded(size_at(self.features.size, level))

    @property
    def _limit(self) -> int:
        """The largest side of a window in working pixels."""
        return self.model.config.window * (LARGEST_WINDOW if self.image is None else 1)

    def _window(self, known: Box, previous: Box | None, level: int, least: int = 1) -> Box:
        """Return the window in which to decode an object of which `known` is known.

        The previous one serves as long as it leaves room around the object, so that nothing is prepared twice.
        """
        config = self.model.config
        size = self._padded(level)
        room = (config.zoom_expansion - 1) / 4
        roomy = known.grown(round(known.height * room), round(known.width * room))
        fits = previous is not None and previous.extent <= self._limit
        if previous is not None and fits and previous.holds(roomy.intersect(Box.of(size))):
            return previous
        spans = []
        for start, stop, length in (
            (known.left, known.right, size[1]),
            (known.top, known.bottom, size[0]),
        ):
            side = max(config.click_window * least, (stop - start) * config.zoom_expansion)
            side = min(rounded_up(side), self._limit, length)
            first = placed((start + stop) / 2, side, length)
            spans.append((first, first + side))
        (left, right), (top, bottom) = spans
        return Box(left, top, right, bottom)

    def _wider(self, window: Box, mask: BoolMask, level: int, limit: int) -> Box:
        """Return a window that goes on where the mask runs into this one's edge; the same if it does not."""
        across = min(window.width, max(0, limit - window.width) // 2) // DIVISOR * DIVISOR
        along = min(window.height, max(0, limit - window.height) // 2) // DIVISOR * DIVISOR
        height, width = self._padded(level)
        return Box(
            max(0, window.left - across) if mask[:, 0].any() else window.left,
            max(0, window.top - along) if mask[0].any() else window.top,
            min(width, window.right + across) if mask[:, -1].any() else window.right,
            min(height, window.bottom + along) if mask[-1].any() else window.bottom,
        )

    def _logits(self, prepared: Any, reference: Reference, roi: Box | None = None) -> NDArray[np.float32]:
        with watched(
            (id(self.model), getattr(self.model, "device", None), reference.shape, roi and roi.shape)
        ):
            return self.model.decode_logits(prepared, reference, roi)

    def _prepare(self, plane: Plane, level: int, window: Box) -> Any:
        key = plane, level, window
        with self._lock:
            if key in self._prepared:
                self._prepared.move_to_end(key)
                return self._prepared[key]
        if level == 0 or self.image is None:
            maps = self.features.window(plane, window)
        else:
            maps = maps_at(self.image, self.model, plane, level, window)
        prepared = self.model.prepare_maps(maps)
        with self._lock:
            self._prepared[key] = prepared
            while len(self._prepared) > 4:
                self._prepared.popitem(last=False)
        return prepared

    def _inside(self, step: Step) -> Step:
        """Return a step without the padding of its mask."""
        box = step.box.intersect(Box.of(self.features.size))
        box = Box(0, 0, 0, 0) if box.empty else box  # all of it in the padding
        return step if box == step.box else replace(step, box=box, mask=step.mask[: box.height, : box.width])


def _known(one: object, asked: Container[object]) -> bool:
    """Whether something is a prompt that was answered before; what is none may not be hashable."""
    return isinstance(one, Mark | BoxPrompt | Mask) and one in asked


def _so_far(previous: Step | None, prompt: Prompt) -> tuple[Prompt, ...]:
    """Return the prompts of a plane up to one."""
    return (*(() if previous is None else previous.prompts), prompt)


def _piece(path: Sequence[tuple[int, int]], size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Return the longest piece of a line that lies inside a plane, pixel by pixel; empty if none does.

    Where it leaves the image and comes back, nobody drew what would join the pieces.
    """
    plane = Box.of(size)
    pieces = itertools.groupby(line(path, size), lambda pixel: plane.has(*pixel))
    return max((tuple(piece) for inside, piece in pieces if inside), key=len, default=())


@lru_cache(maxsize=1024)  # with each click those of all lines before it are asked for again
def _pixels(mark: Mark, level: int) -> tuple[tuple[int, int], ...]:
    """Return row and column of all pixels of a click or scribble, in working pixels."""
    return tuple(line([(working(y, level), working(x, level)) for y, x in mark.path]))


def _largest_part(mask: BoolMask) -> BoolMask:
    """Return the largest of the parts that a mask falls into."""
    parts, count = number_parts(mask)
    return mask if count < 2 else parts == 1 + np.bincount(parts[mask] - 1).argmax()


def _without_specks(
    logits: NDArray[np.float32], marks: Iterable[tuple[int, int, bool]], kept: BoolMask
) -> NDArray[np.float32]:
    """Return logits whose mask has no small parts that nobody asked for: the network leaves some beside neighbours.

    Parts stay that hold a mark or anything of `kept`, go on beyond the window, or are no smaller than `LOOSE` of the largest.
    """
    parts, count = number_parts(logits > 0)
    if count < 2:
        return logits
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    stays = sizes >= LOOSE * sizes.max()
    for some in (parts[kept], parts[0], parts[-1], parts[:, 0], parts[:, -1]):
        stays[some] = True
    plane = Box.of(logits.shape)
    for y, x, _ in marks:
        if plane.has(y, x):
            stays[parts[y, x]] = True
    stays[0] = True
    return np.where(stays[parts], logits, -logits)


def _in_image(
    logits: NDArray[np.float32], window: Box, level: int, prompts: Sequence[Prompt]
) -> tuple[Box, BoolMask]:
    """Return a mask in pixels of the image from logits in working pixels; marked pixels keep their sign.

    What a plane started from keeps its own pixels where the answer is as it was: from farther away, thin parts are not seen.
    """
    box, fine = to_image(logits, window, level)
    mask = fine > 0
    start = prompts[0]
    if level < 0 and isinstance(start, Mask):
        whole = box.union(start.box)
        marks = [pixel for mark in prompts if isinstance(mark, Mark) for pixel in _pixels(mark, level)]
        same = _unchanged(logits > 0, window, level, start, marks, whole)
        mask = np.where(same, cut(start.mask, start.box, whole, False), cut(mask, box, whole, False))
        box = whole
    return _with_marks(box, mask, prompts)


def _unchanged(
    answer: BoolMask, window: Box, level: int, start: Mask, marks: Iterable[tuple[int, int]], whole: Box
) -> BoolMask:
    """Return which pixels of a box of the image lie where an answer, in working pixels, is as the mask before it.

    None lies where a mark does.
    """
    box, before = to_working(start.mask, start.box, level)
    same = answer == cut(before, box, window, False)
    for y, x in marks:
        if window.has(y, x):
            same[y - window.top, x - window.left] = False
    same = np.pad(same, 1, constant_values=True)  # beyond the window nothing was answered
    rows = (np.arange(whole.top, whole.bottom) >> -level) - window.top
    columns = (np.arange(whole.left, whole.right) >> -level) - window.left
    return same[np.ix_(np.clip(rows, -1, answer.shape[0]) + 1, np.clip(columns, -1, answer.shape[1]) + 1)]


def _with_marks(box: Box, mask: BoolMask, prompts: Iterable[Prompt]) -> tuple[Box, BoolMask]:
    """Return a mask of the image, and its box, in which marked pixels have their sign, wherever they are."""
    marked = {
        pixel: mark.positive for mark in prompts if isinstance(mark, Mark) for pixel in _pixels(mark, 0)
    }
    beyond = (Box.pixel(*pixel) for pixel, positive in marked.items() if positive and not box.has(*pixel))
    whole = reduce(Box.union, beyond, box)
    out = np.array(cut(mask, box, whole, False))
    for (y, x), positive in marked.items():
        if whole.has(y, x):
            out[y - whole.top, x - whole.left] = positive
    return whole, out
