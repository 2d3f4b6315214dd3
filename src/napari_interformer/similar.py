"""Finding objects that look like the finished ones: one click each, made by the program instead of a person.

Enters: a session with finished objects on a plane. Leaves: for each object that is found, the step of one click. Where pixels
look like those of the finished objects, about as far inside as in those, the network is asked; an answer is an object if it is
about as large as they are, looks like them, and is not there already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.ndimage import label as number_parts
from skimage.feature import peak_local_max

from napari_interformer.appearance import NEAR, Appearance, pixels_of, values_of
from napari_interformer.cores import several
from napari_interformer.files import labels_at
from napari_interformer.geometry import Box, depth, empty_mask
from napari_interformer.painting import objects_on
from napari_interformer.prompts import Click, Mask, NotEncodedError
from napari_interformer.scales import shrunk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_interformer.decoding import Step
    from napari_interformer.geometry import BoolMask
    from napari_interformer.image import Plane
    from napari_interformer.session import Session

# All chosen on training images of dsb2018; benchmarks/similar.py measures on others. Depths and areas are those of the finished
# objects.
EXAMPLES = 100  # finished objects that are looked at, at most
LIKE = 0.5  # 1 looks like the objects, 0 like what is around them
BLURRED = 0.2  # of the median depth: sigma of what is looked for
APART = 0.6  # of the median depth: between two places that are tried
DEEP = 0.35  # of the median depth: how far inside such a place lies
SMALLEST, LARGEST = 0.25, 4.0  # of the least and the greatest area
STEADY = 0.15  # share of a mask beyond doubt (see `decoding.View`)
TAKEN = 0.4  # an object of which a greater share is another's is that one
WORKED = 8.0  # pixels of depth for which finding places needs no more: larger objects are looked for in a smaller image
SAMPLED = 2**18  # pixels of all examples, and around them, that tell what is looked for
MOST_PIXELS = 2**24  # pixels that are looked through at a time: half a gigabyte for a while
BLOCK = 512  # pixels a side that are looked at in one go


@dataclass(frozen=True, eq=False)
class Similar:
    """What was found: a step of one click for each object, best first, and how large they were assumed to be, in pixels."""

    steps: tuple[Step, ...]
    size: float


def search(
    session: Session,
    plane: Plane,
    box: Box,
    *,
    progress: Callable[[int, int], None] | None,
    cancelled: Callable[[], bool] | None,
) -> Similar:
    """Look for objects like the finished ones, without changing anything; a worker thread may call it.

    Parameters
    ----------
    session : Session
        Without a current object.
    plane : tuple of int
        Leading indices.
    box : Box
        The part to search, in pixels of the image; the finished objects in it are the examples.
    progress, cancelled : callable, optional
        As of `Session.find_similar`.

    Returns
    -------
    Similar
        For `Session.adopt_similar`.

    Raises
    ------
    ValueError
        If there is no finished object as an example, nothing tells the examples from their surroundings, or the box is empty
        or too large.
    NotEncodedError
        If an example lies where nothing is encoded yet.
    """
    if box.empty:
        raise ValueError(
            "Find similar searches a part of the image; got one outside of it: move the image into view."
        )
    if box.width * box.height > MOST_PIXELS:
        raise ValueError(
            f"Find similar searches at most {MOST_PIXELS / 1e6:.2f} megapixels at a time; got "
            f"{box.width * box.height / 1e6:.2f}: zoom in, or give a smaller box."
        )
    examples = finished(session, plane, box)
    deep = float(np.median([depth(one.mask)[1].max() for one in examples]))
    size = float(np.median([one.box.extent for one in examples]))
    coarse = max(1, int(deep / WORKED))
    taken = empty_mask(session.features.size)
    room = box.grown(2 * round(size), 2 * round(size)).intersect(Box.of(taken.shape))
    taken[room.slices] = labels_at(session.labels, (*plane, *room.slices)) != 0
    for one in session.rejected:
        if one.plane == plane:
            taken[one.box.slices] |= one.mask
    appearance = _appearance(session, examples, max(NEAR, 2 * deep), taken)
    like = likeness(session, appearance, plane, box, coarse, cancelled)
    places = _places(like, taken[box.slices][::coarse, ::coarse], deep / coarse)
    areas = [int(one.mask.sum()) for one in examples]
    smallest, largest = SMALLEST * min(areas), LARGEST * max(areas)
    found = []
    places = places * coarse + coarse // 2 + (box.top, box.left)

    def answered(place: NDArray[np.intp]) -> Step | None:
        try:
            return session.decoding.steps((Click(plane, int(place[0]), int(place[1])),), size)[0]
        except (ValueError, NotEncodedError):  # no value there, or not encoded
            return None

    device = getattr(session.model, "device", None)
    if device is None or device.type == "cpu":
        answers = several(answered, list(places), session.model.config.window**2)
    else:  # where there may be memory for one at a time
        answers = map(answered, places)
    for count, step in enumerate(answers):
        if cancelled is not None and cancelled():
            break
        if progress is not None:
            progress(count + 1, len(places))
        if step is None:
            continue
        steady = step.view.steadiness
        if smallest <= np.count_nonzero(step.mask) <= largest and steady >= STEADY:
            alike = _likeness_of(step, like, box, coarse)
            if alike >= LIKE:
                found.append((steady * min(1.0, alike), step))
    found.sort(key=lambda pair: -pair[0])
    return Similar(_apart([step for _, step in found], taken), size)


def finished(session: Session, plane: Plane, box: Box) -> list[Mask]:
    """Return the finished objects in a box of a plane; those that its edge cuts off, only if there are no others.

    Raises
    ------
    ValueError
        If there are none.
    """
    labels = labels_at(session.labels, (*plane, *box.slices))
    objects = [
        Mask(plane, where.shift(box.top, box.left), labels[where.slices] == number)
        for number, where in objects_on(labels)
    ]
    if not objects:
        raise ValueError(
            "Find similar needs finished objects as examples; there is none in this part of the plane: click on one and commit "
            "it first."
        )
    inner = box.grown(-1, -1)
    whole = [one for one in objects if inner.holds(one.box)] or objects
    return whole[:: -(-len(whole) // EXAMPLES)]


def _appearance(session: Session, examples: Sequence[Mask], reach: float, taken: BoolMask) -> Appearance:
    """Return what the examples look like; what looks like them nearby may be other objects, and does not count as around."""
    most = SAMPLED // len(examples)  # of each example; large ones have more than is needed
    pairs = [[_thinned(part, most) for part in pixels_of(session, one, reach, taken)] for one in examples]
    ours, theirs = (np.concatenate(values, axis=1) for values in zip(*pairs, strict=True))
    appearance = Appearance.between(ours, theirs)
    for _ in range(2):
        if appearance is None:
            break
        theirs = theirs[:, appearance.likeness(theirs) < LIKE]
        appearance = Appearance.between(ours, theirs) or appearance
    if appearance is None:
        raise ValueError(
            "Find similar needs objects that look different from what is around them; these do not: correct them, or click "
            "on the others yourself."
        )
    return appearance


def _thinned(values: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """Return at most so many columns of (C, N), evenly spread."""
    return np.ascontiguousarray(values[:, :: max(1, -(-values.shape[1] // most))])


def likeness(
    session: Session,
    appearance: Appearance,
    plane: Plane,
    box: Box,
    coarse: int,
    cancelled: Callable[[], bool] | None,
) -> NDArray[np.float32]:
    """Return how much pixels look like an object, as means of squares of `coarse` x `coarse`.

    It is 0 where nothing is encoded, and, if cancelled, where it was not computed yet.
    """
    height, width = -(-box.height // coarse), -(-box.width // coarse)
    out = np.zeros((height, width), np.float32)
    step = max(1, BLOCK // coarse)
    for top in range(0, height, step):
        for left in range(0, width, step):
            if cancelled is not None and cancelled():
                return out
            part = Box(left, top, min(left + step, width), min(top + step, height))
            pixels = Box(*(n * coarse for n in part)).shift(box.top, box.left).intersect(box)
            if session.features.ready(plane, pixels):
                like = appearance.likeness(values_of(session, plane, pixels)).astype(np.float32)
                out[part.slices] = shrunk(like[:, :, None], coarse)[:, :, 0]
    return out


def _places(like: NDArray[np.float32], taken: BoolMask, deep: float) -> NDArray[np.intp]:
    """Return rows and columns (N, 2) that lie deep inside what looks like an object."""
    sigma = BLURRED * deep
    looks = (gaussian_filter(like, sigma) > LIKE) & ~taken
    depths = distance_transform_edt(np.pad(looks, 1))[1:-1, 1:-1]
    parts, _ = number_parts(looks)
    places = peak_local_max(
        gaussian_filter(depths, sigma),
        min_distance=max(1, int(APART * deep)),
        labels=parts,
        exclude_border=False,
    )
    return np.asarray(places[depths[tuple(places.T)] >= DEEP * deep])


def _likeness_of(step: Step, like: NDArray[np.float32], box: Box, coarse: int) -> float:
    """Return how much a mask looks like an object, where that is known; `like` is of `box`."""
    rows, columns = np.nonzero(step.mask)
    y, x = (rows + step.box.top - box.top) // coarse, (columns + step.box.left - box.left) // coarse
    inside = (y >= 0) & (y < like.shape[0]) & (x >= 0) & (x < like.shape[1])
    return float(np.median(like[y[inside], x[inside]]))


def _apart(steps: Sequence[Step], taken: BoolMask) -> tuple[Step, ...]:
    """Return the answers that are separate objects; what belongs to one, better ones first, is taken."""
    apart = []
    for step in steps:
        (click,), covered = step.prompts, taken[step.box.slices]
        assert isinstance(click, Click)
        shared = np.count_nonzero(covered & step.mask)
        if not taken[click.y, click.x] and shared <= TAKEN * np.count_nonzero(step.mask):
            covered |= step.mask
            apart.append(step)
    return tuple(apart)
