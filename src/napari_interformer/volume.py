"""Carrying an object through a stack, from the planes a person clicked to their neighbours.

A neighbour's mask enters as what is possible, not as what is certain; where it is deepest, a click is made. What the network
says is weighed against how the object, and what was around it, looked where it was clicked; this also tells where the object
ends. Between two clicked planes, the object is carried from both until they meet, each side knowing of the other. Nothing is
decoded on planes that have clicks: they are the truth that the others follow.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import binary_dilation, binary_opening, distance_transform_edt, label

from napari_interformer.appearance import NEAR, Appearance, pixels_of, shown, values_of
from napari_interformer.gaps import Carried, Ended, Gap, Reason
from napari_interformer.geometry import Box, cut, depth, iou, line
from napari_interformer.image import along, shifted
from napari_interformer.prompts import BoxPrompt, Click, Mark, Mask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_interformer.by_hand import Piece
    from napari_interformer.decoding import Step
    from napari_interformer.gaps import Gaps
    from napari_interformer.geometry import BoolMask
    from napari_interformer.image import Plane
    from napari_interformer.prompts import Prompt
    from napari_interformer.session import Session

log = logging.getLogger(__name__)

# All chosen on stacks 0 to 7 of each family in benchmarks/volumes.py, which measures on others; the waist on 0 to 29, what
# is between two fronts on 0 to 13, and how bright on 0 to 23 of the nuclei.
LIKENESS = 2.0  # how much looks weigh against the network's logits, which count up to LARGEST_LOGIT
LARGEST_LOGIT = 4.0
LEAST_LIKENESS = 0.5  # 1 looks like the object, 0 like its surroundings: below this at its core, it has ended
REACH = 0.5  # from plane to plane an outline moves out by at most this share of the object's depth; cells that move need it
LEAST_REACH = 2.0  # pixels
# An object that overlaps its neighbour's mask by less than this has ended, or is another one.
LEAST_IOU = 0.3
LEAST_PIXELS = 4
LEAST_SHARE = 0.15  # of the area where it was clicked
# Objects are round: between its middle and its tip, one is wider than a cone, so what is expected there is not blended evenly.
LATE = 2.0
# What is this much brighter than the object's core on the same plane, counted in spreads of the core's pixels and away from its
# surroundings, is another object; the network's logits lose so much for each spread more, for so many at most. What is this
# much fainter is one too, or what is around it, unless it is no wider than an edge that is blurred: so many pixels.
BRIGHTER, COST, MOST = 2.5, 3.0, 5.0
FAINTER, EDGE = 5.0, 7
# A part of a mask that hangs together with no other must lie on the neighbour's mask by so much: a membrane is thinner than an
# outline may move, and what is behind it may look like the object.
EXPECTED = 0.5
# An object that shrinks below this share and then grows by this factor is two objects.
WAIST, REGROWN = 0.7, 1.3


@dataclass(eq=False)
class _Front:
    """How far an object was carried from one clicked plane in one direction."""

    mask: Mask
    along: int
    direction: int
    level: int
    appearance: Appearance | None
    # Of each colour, 1 where the object is brighter than what is around it, else -1.
    sense: NDArray[np.float32] | None
    trail: list[Mask] = field(default_factory=list)
    areas: list[int] = field(default_factory=list)
    withheld: list[Mask] = field(default_factory=list)  # what other objects have of what it would cover
    ended: Ended | None = None

    @property
    def ahead(self) -> Plane:
        return shifted(self.mask.plane, self.along, self.direction)

    def advance(self, mask: Mask) -> None:
        self.mask = mask
        self.trail.append(mask)
        self.areas.append(int(mask.mask.sum()))

    def end(self, plane: Plane, reason: Reason) -> None:
        self.ended = Ended(plane, reason)


def check_axes(axes: str, shape: Sequence[int]) -> None:
    """Refuse an image, by its axes without channels, along whose last axis (see `along`) nothing can be carried."""
    leading = shape[:-2]
    if max(leading, default=1) == 1:
        raise ValueError("propagate needs a stack; got a single plane: commit the object as it is.")
    stacked = "".join(axis for axis, length in zip(axes, leading, strict=False) if length > 1)
    if stacked.endswith("T") and "Z" in stacked:
        raise ValueError(
            f"propagate follows the last axis before (Y, X), which must be Z in a series of stacks; got {axes}: swap T and Z "
            "with numpy.swapaxes and encode the image again."
        )


def carry(
    session: Session,
    *,
    progress: Callable[[int, int], None] | None,
    cancelled: Callable[[], bool] | None,
    ended: Callable[[Ended], None] | None,
) -> Carried:
    """Compute the current object on the planes beside those with clicks, along the last leading axis that has several.

    That axis may be depth or time. In (T, Z, Y, X), an object is carried along Z at each time that has a click; if there is one
    Z alone, as in time-lapses in OME-Zarr, along T.

    Parameters
    ----------
    session : Session
        With a current object; nothing of it changes. As long as the clicks on the planes on either side of one of its `gaps`
        stay the same, nothing is decoded there again.
    progress, cancelled, ended : callable, optional
        As of `Session.propagate`.

    Returns
    -------
    Carried
        For `Session.adopt_propagate`: the clicks as they were, one mask per plane that the object was carried to, and the gaps.

    Raises
    ------
    ValueError
        If the image is a single plane, T comes after Z in the axes, or the object has no prompts.
    """
    leading = session.features.leading
    check_axes(session.features.origin.axes, session.features.shape)
    axis = along(leading)
    given = session.given
    # Without any, an object that is being edited spreads from the planes it has.
    kept: tuple[Prompt, ...] = given or session.masks
    if not kept:
        raise ValueError(
            "propagate needs an object with at least one click or box; got none: click on the object first."
        )
    sources = sorted(_sources(session, kept, axis))
    stacks = {plane[:axis] for plane in sources}
    carried = [
        _kept(session, mask)
        for mask in session.masks
        if mask.plane in sources or mask.plane[:axis] not in stacks
    ]
    most, done = leading[axis] * len(stacks) - len(sources), 0
    gaps: Gaps = {}

    def told(planes: int) -> None:
        nonlocal done
        done += planes
        if progress is not None and planes:
            progress(done, most)

    def stopped() -> bool:
        return cancelled is not None and cancelled()

    for stack in sorted(stacks):
        own = [plane for plane in sources if plane[:axis] == stack]
        for before, after in zip([None, *own], [*own, None], strict=True):
            gap = gaps[before, after] = _gap(session, before, after, told, stopped)
            carried += gap.masks
            # Planes that were clicked on before, and that the object is not on now, have nothing to carry.
            silent = gap.sources == (None, None) and not {before, after} & {prompt.plane for prompt in given}
            if stopped() or silent or any(end.reason is Reason.NOT_ENCODED for end in gap.ends):
                carried += _not_reached(session, before, after, stack, gap)
            for end in gap.ends:
                log.info("%s", end)
                if ended is not None:
                    ended(end)
    return Carried(session.compute((*carried, *given)), gaps)


def _sources(session: Session, kept: Sequence[Prompt], axis: int) -> set[Plane]:
    """Return the planes on which the object stays as it is: those of prompts that are `kept`, and more in their stacks."""
    stacks = {prompt.plane[:axis] for prompt in kept}
    # An object that is being edited keeps what it has where somebody had clicked before, and in stacks without a click now.
    held = {plane for plane in session.clicked_before if plane[:axis] in stacks}
    if session.edited:  # and what somebody painted or erased of it, where nobody may be looking
        begun = {
            mask.plane: mask
            for mask in session.masks
            if mask.plane[:axis] in stacks and not session.was_carried(mask)
        }
        held |= {
            piece.plane
            for piece in session.by_hand.read(session.labels)
            if piece.plane in begun and _touched(begun[piece.plane], piece, session.label)
        }
    planes = {*held, *(prompt.plane for prompt in kept)}
    # Where red clicks alone say where it is not, what else it has stays.
    followed = {plane[:axis] for plane in planes if _source(session, plane) is not None}
    return planes | {mask.plane for mask in session.masks if mask.plane[:axis] in stacks - followed}


def _gap(
    session: Session,
    before: Plane | None,
    after: Plane | None,
    told: Callable[[int], None],
    stopped: Callable[[], bool],
) -> Gap:
    """Return what lies between two planes that others follow, as it was carried before if that would be the same again."""
    sources = _source(session, before), _source(session, after)
    gap = session.gaps.get((before, after))
    if gap is not None and gap.sources == sources and _still(session, gap):
        told(len(gap.masks))
        return gap
    fronts = _fill(session, before, after, told, stopped)
    masks = tuple(mask for front in fronts for mask in front.trail)
    if gap is not None and len(masks) == len(gap.masks) and all(map(_same, masks, gap.masks)):
        masks = gap.masks  # or it would be a change, though nothing has
    ends = tuple(front.ended for front in fronts if front.ended is not None)
    settled = not any(end.reason in (Reason.NOT_ENCODED, Reason.OCCUPIED) for end in ends) and not stopped()
    withheld = tuple(mask for front in fronts for mask in front.withheld)
    return Gap(sources, masks, ends, settled, session.overwrite, withheld)


def _still(session: Session, gap: Gap) -> bool:
    """Whether a gap would be filled in the same way again, as far as its clicks are the same."""
    if not gap.settled or gap.overwrite != session.overwrite:
        return False
    return not any((session.free(one.plane, one.box) & one.mask).any() for one in gap.withheld)


def _touched(mask: Mask, piece: Piece, label: int) -> bool:
    """Whether somebody painted, or erased, pixels of an object's mask or beside it."""
    painted, values = piece.mask, piece.values
    painted[painted] = (values == 0) | (values == label)
    near = binary_dilation(cut(mask.mask, mask.box, piece.box.grown(1, 1), False))[1:-1, 1:-1]
    return bool((painted & near).any())


def _not_reached(
    session: Session, before: Plane | None, after: Plane | None, stack: Plane, gap: Gap
) -> list[Mask]:
    """Return what the object has in a gap where it was not carried to: that says nothing of it there."""
    reached = {mask.plane for mask in gap.masks}
    return [
        mask
        for mask in session.masks
        if mask.plane[: len(stack)] == stack
        and mask.plane not in reached
        and (before is None or before < mask.plane)
        and (after is None or mask.plane < after)
    ]


def _fill(
    session: Session,
    before: Plane | None,
    after: Plane | None,
    told: Callable[[int], None],
    stopped: Callable[[], bool],
) -> list[_Front]:
    """Carry the object from either end of a gap, plane by plane in turns, until it ends or the two meet."""
    stops = {before, after}
    axis = along(session.features.leading)
    last = session.features.leading[axis]
    fronts = [
        front
        for plane, direction in ((before, 1), (after, -1))
        if plane is not None
        and 0 <= plane[axis] + direction < last
        and shifted(plane, axis, direction) not in stops
        and (front := _front(session, plane, axis, direction)) is not None
    ]
    while going := [
        front
        for front in fronts
        if front.ended is None and 0 <= front.ahead[axis] < last and front.ahead not in stops
    ]:
        if stopped():
            break
        # The larger one first: at the tip of an object there is little to go by.
        front = max(going, key=lambda one: one.areas[-1])
        other = next((one for one in fronts if one is not front and one.ended is None), None)
        plane = front.ahead
        if not session.features.ready(plane):
            front.end(plane, Reason.NOT_ENCODED)
            continue
        found = neighbour(session, front, other)
        if isinstance(found, Reason):
            front.end(plane, found)
            continue
        front.advance(found)
        stops.add(plane)
        told(1)
        if other is None:
            _cut_at_waist(front)
    return fronts


def _front(session: Session, plane: Plane, axis: int, direction: int) -> _Front | None:
    """Return the front that starts at a clicked plane; None if the object is not there."""
    step = _source(session, plane)
    if step is None or not step.mask.any():
        return None
    source = _tight(plane, step.box, step.mask)
    reach = max(NEAR, float(depth(source.mask)[1].max()))
    ours, theirs = pixels_of(session, source, reach)
    appearance, sense = Appearance.between(ours, theirs), None
    if appearance is not None and session.image is not None:
        sense = np.sign(shown(ours).mean(axis=1) - shown(theirs).mean(axis=1))
    return _Front(source, axis, direction, step.view.level, appearance, sense, areas=[int(source.mask.sum())])


def _spreads(pixels: NDArray[np.float32], core: BoolMask) -> NDArray[np.float32]:
    """Return how far pixels (3, Y, X) lie from the middle of those of a core, in spreads of these: robustly, (3, Y, X)."""
    inside = pixels[:, core]
    middle = np.median(inside, axis=1, keepdims=True)
    spread = 1.48 * np.median(abs(inside - middle), axis=1, keepdims=True) + 1  # of 255; a flat core has none
    return np.asarray((pixels - middle[..., None]) / spread[..., None])


def _source(session: Session, plane: Plane | None) -> Step | None:
    """Return the step of a clicked plane that others follow; None if there is no plane, or no object on it."""
    step = None if plane is None else session.latest(plane)
    return None if step is None or _removed(step) else step


def _removed(step: Step) -> bool:
    """Whether a plane has only red clicks or scribbles, one of them at the heart of the mask that was there: no object."""
    start = step.prompts[0]
    marks = [prompt for prompt in step.prompts if isinstance(prompt, Mark)]
    boxed = any(isinstance(prompt, BoxPrompt) for prompt in step.prompts)
    if boxed or not marks or any(mark.positive for mark in marks):
        return False
    if not isinstance(start, Mask) or not start.mask.any():
        return True
    core, box = _core(start.mask), start.box
    return any(
        box.has(y, x) and core[y - box.top, x - box.left] for mark in marks for y, x in line(mark.path)
    )


def _kept(session: Session, start: Mask) -> Mask:
    """Return the mask that a clicked plane started from, empty if the clicks say that there is no object."""
    step = session.latest(start.plane)
    if start.mask.any() and step is not None and _removed(step):
        return Mask(start.plane, start.box, np.zeros_like(start.mask))
    return start


def _same(first: Mask, second: Mask) -> bool:
    """Whether two masks cover the same pixels of the same plane."""
    return (first.plane, first.box) == (second.plane, second.box) and np.array_equal(first.mask, second.mask)


def _core(mask: BoolMask) -> BoolMask:
    """Return the deeper half of a mask."""
    part, depths = depth(mask)
    core = np.zeros(mask.shape, bool)
    core[part.slices] = depths >= depths.max() / 2
    return core


def neighbour(session: Session, front: _Front, other: _Front | None) -> Mask | Reason:
    """Return the object on the plane ahead of a front, or why it is not there.

    If another front comes from the other side, the object is between them in any case: where the image does not show it,
    what lies between the two masks is used.
    """
    plane, size = front.ahead, Box.of(session.features.size)
    prior = straight = Mask(plane, front.mask.box, front.mask.mask)
    if other is not None:
        prior, straight = between(front.mask, other.mask, plane, LATE, 1)
    part, depths = depth(prior.mask)
    deepest = float(depths.max())
    y, x = divmod(int(depths.argmax()), depths.shape[1])
    click = Click(plane, prior.box.top + part.top + y, prior.box.left + part.left + x)
    if not session.features.valid(plane, click.y, click.x):
        return Reason.NO_VALUE
    reach = max(LEAST_REACH, REACH * deepest)
    grown, known = round(reach) + 1, prior.box.union(straight.box)
    room = known.grown(grown, grown)
    room = room.intersect(size)
    inside = cut(prior.mask, prior.box, room, False)
    free = session.free(plane, room)
    if 2 * np.count_nonzero(inside & free) < np.count_nonzero(inside):
        return Reason.OCCUPIED
    likeness = contrast = None
    if front.appearance is not None:
        values, core = values_of(session, plane, room), cut(_core(prior.mask), prior.box, room, False)
        likeness = front.appearance.likeness(values)
        if other is None and likeness[core].mean() < LEAST_LIKENESS:
            return Reason.UNLIKE
        if front.sense is not None:
            contrast = front.sense[:, None, None] * _spreads(shown(values), core)
    box, logits = session.decoding.guess(prior, click, front.level)
    score = cut(logits, box, room, -1).clip(-LARGEST_LOGIT, LARGEST_LOGIT)
    if likeness is not None:
        score = score + LIKENESS * (likeness - 0.5).clip(-1, 1)
    if contrast is not None:
        score = score - np.where(core, 0, COST * (contrast.max(axis=0) - BRIGHTER).clip(0, MOST))
    near = distance_transform_edt(~inside) <= reach
    wanted = (score > 0) & near
    mask, held = wanted & free, wanted & ~free
    if held.any():
        front.withheld.append(_tight(plane, room, held))
    if contrast is not None:
        faint = mask & (contrast.min(axis=0) < -FAINTER)
        mask &= ~binary_opening(faint, np.ones((EDGE, EDGE)))
    mask = _without_loose(mask, inside)
    area = int(mask.sum())
    if area < max(LEAST_PIXELS, LEAST_SHARE * front.areas[0]):
        wrong = Reason.VANISHED
    elif iou(mask, inside) < LEAST_IOU:
        wrong = Reason.ELSEWHERE
    else:
        return _tight(plane, room, mask)
    if other is None:
        return wrong
    left = cut(straight.mask, straight.box, room, False) & free
    return _tight(plane, room, left) if left.any() else Reason.OCCUPIED


def _without_loose(mask: BoolMask, expected: BoolMask) -> BoolMask:
    """Return the part of a mask that holds most of what is expected, and the others that mostly lie on it."""
    parts, count = label(mask)
    if count < 2:
        return mask
    pixels = np.bincount(parts[mask], minlength=count + 1)
    held = np.bincount(parts[mask & expected], minlength=count + 1)
    kept = (held > 0) & ((held == held.max()) | (held >= EXPECTED * pixels))
    return np.asarray(kept[parts])


def _cut_at_waist(front: _Front) -> None:
    """End a front where the object was narrowest, if it has widened again since."""
    narrowest = int(np.argmin(front.areas))
    least = front.areas[narrowest]
    if narrowest and least < WAIST * front.areas[0] and front.areas[-1] > REGROWN * least:
        front.end(front.trail[narrowest].plane, Reason.ANOTHER)
        del front.trail[narrowest:]


def between(first: Mask, second: Mask, plane: Plane, *lates: float) -> list[Mask]:
    """Return shapes between those of two planes (Raya and Udupa, 1990: signed distances to the outlines, blended).

    There is one for each of `lates`: above 1, the shape stays like the first for longer. The distances, which take the time,
    are measured once.
    """
    axis = next(
        i for i, (one, other) in enumerate(zip(first.plane, second.plane, strict=True)) if one != other
    )
    here, there, z = first.plane[axis], second.plane[axis], plane[axis]
    box = first.box.union(second.box)
    near, far = (_signed(cut(one.mask, one.box, box, False)) for one in (first, second))
    shapes = []
    for late in lates:
        share = ((z - here) / (there - here)) ** late
        mask = (1 - share) * near + share * far > 0
        # Shapes that lie apart have nothing between them; then the nearer one counts.
        shapes.append(_tight(plane, box, mask) if mask.any() else Mask(plane, first.box, first.mask))
    return shapes


def _signed(mask: BoolMask) -> NDArray[np.float64]:
    padded = np.pad(mask, 1)
    distance = distance_transform_edt(padded) - distance_transform_edt(~padded)
    return np.asarray(distance[1:-1, 1:-1])


def _tight(plane: Plane, box: Box, mask: BoolMask) -> Mask:
    tight = Box.around(mask)
    return Mask(plane, tight.shift(box.top, box.left), mask[tight.slices])
