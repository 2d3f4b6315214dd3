"""Carrying an object through a stack, from the planes a person clicked to their neighbours.

A neighbour's mask enters as what is possible, not as what is certain; where it is deepest, it clicks.
Nothing is decoded on planes that have clicks of their own: they are the truth that the others follow.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from napari_interformer.prompts import Box, Click, Mask, cut
from napari_interformer.simulate import depth, iou

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_interformer.session import Plane, Session, Steps

log = logging.getLogger(__name__)

# An object that overlaps its neighbour's mask by less than this has ended, or is another one.
LEAST_IOU = 0.35
LEAST_PIXELS = 4


def carry(
    session: Session,
    *,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Steps:
    """Compute the current object on the planes beside those with clicks, along the last leading axis.

    Parameters
    ----------
    session : Session
        With a current object; not changed.
    progress : callable, optional
        Told (planes done, planes at most).
    cancelled : callable, optional
        Asked before each plane; what is done by then is returned.

    Returns
    -------
    tuple of Step
        For `Session.adopt`: the clicks as they were, and one mask per plane that the object was carried to. Masks of
        an earlier call are made anew.

    Raises
    ------
    ValueError
        If the image is a single plane, or the object has neither clicks nor masks.
    """
    features = session.features
    if not features.leading:
        raise ValueError("propagate takes a stack; got a single plane: commit the object as it is.")
    clicks = session.clicks
    # Without clicks, an object that is being edited spreads from the planes it has.
    kept: tuple[Click | Mask, ...] = clicks or session.masks
    if not kept:
        raise ValueError(
            "propagate takes an object with at least one click; got none: click on the object first."
        )
    sources = sorted({prompt.plane for prompt in kept})
    masks = [mask for mask in session.masks if mask.plane in sources]
    carried: dict[Plane, Mask] = {}
    distance: dict[Plane, int] = {}
    most, done = features.leading[-1] * len({plane[:-1] for plane in sources}), 0
    for source in sources:
        for direction in (-1, 1):
            box, mask = session.plane_mask(source)
            plane, previous = source, Mask(source, box, mask)
            while mask.any() and not (cancelled is not None and cancelled()):
                plane = (*plane[:-1], plane[-1] + direction)
                away = abs(plane[-1] - source[-1])
                if not 0 <= plane[-1] < features.leading[-1] or plane in sources:
                    break
                if away >= distance.get(plane, away + 1):
                    break  # another clicked plane is nearer
                if not features.ready(plane):
                    log.info("stopped before plane %s: it is not encoded", plane)
                    break
                following = neighbour(session, previous, plane)
                if following is None:
                    log.info("the object ends before plane %s", plane)
                    break
                carried[plane], distance[plane], previous = following, away, following
                done += 1
                if progress is not None:
                    progress(done, most)
    return session.compute((*masks, *carried.values(), *clicks))


def neighbour(session: Session, previous: Mask, plane: Plane) -> Mask | None:
    """Return the object on the plane beside `previous`, or None where it ends."""
    start = Mask(plane, previous.box, previous.mask)
    part, depths = depth(previous.mask)
    y, x = divmod(int(depths.argmax()), depths.shape[1])
    click = Click(plane, previous.box.top + part.top + y, previous.box.left + part.left + x)
    if not session.features.valid(plane, click.y, click.x):
        return None
    step = session.compute((start, click))[-1]
    size = session.features.size
    box = step.box.intersect(Box.of(size))
    mask = step.mask[: box.height, : box.width]
    whole = box.union(previous.box)
    overlap = iou(cut(mask, box, whole, False), cut(previous.mask, previous.box, whole, False))
    tight = Box.around(mask)
    if int(mask.sum()) < LEAST_PIXELS or overlap < LEAST_IOU:
        return None
    return Mask(plane, tight.shift(box.top, box.left), mask[tight.slices])
