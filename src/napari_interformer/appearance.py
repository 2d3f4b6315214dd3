"""How an object looks beside what is around it, pixel by pixel: in the features and in the image itself.

Enters: an object's mask on a plane. Leaves: a direction in feature space in which its pixels and those around it lie apart (a
linear discriminant), by which other pixels are told to belong to such an object or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from napari_interformer.geometry import Box, cut

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_interformer.geometry import BoolMask
    from napari_interformer.image import Plane
    from napari_interformer.prompts import Mask
    from napari_interformer.session import Session

# Chosen on stacks, for `volume`, as its other numbers.
SMOOTHED = (0.7, 1.5, 3.0)  # sigma, in pixels, of the copies of the image that say how an object looks
LOOKED_AT = 2  # the finest maps say it too
RIM = 1.5  # pixels on either side of an outline that may be of both
NEAR = 6.0  # pixels around an object, at least, that are its surroundings


@dataclass(frozen=True, eq=False)
class Appearance:
    """What tells an object from its surroundings: a direction in feature space, and where the two lie along it.

    Attributes
    ----------
    weights : (C,) float64
        The direction.
    surroundings, object : float
        Where the means of both lie along it.
    """

    weights: NDArray[np.float64]
    surroundings: float
    object: float

    @classmethod
    def between(cls, ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> Appearance | None:
        """Return what tells pixels (C, N) of objects from others (C, M); None if nothing does."""
        if not (ours.shape[1] and theirs.shape[1]):
            return None
        groups = [values.astype(np.float64) for values in (ours, theirs)]
        means = [group.mean(axis=1) for group in groups]
        spread = np.concatenate([g - m[:, None] for g, m in zip(groups, means, strict=True)], axis=1)
        scatter = spread @ spread.T / spread.shape[1]
        # There are few pixels for so many numbers: the variances count for more than what correlates.
        scatter += np.diag(0.1 * np.diag(scatter) + 1e-6 * (1 + np.trace(scatter)))
        weights = np.linalg.solve(scatter, means[0] - means[1])
        surroundings, of_object = float(weights @ means[1]), float(weights @ means[0])
        return cls(weights, surroundings, of_object) if of_object > surroundings else None

    def likeness(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return for values (C, ...) how they look (...): 1 like the object, 0 like its surroundings."""
        along = np.tensordot(self.weights, values, 1)
        return np.asarray((along - self.surroundings) / (self.object - self.surroundings))


def pixels_of(
    session: Session, mask: Mask, reach: float, others: BoolMask | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return values of an object's pixels (C, N), and of those around it (C, M); none of its outline.

    Parameters
    ----------
    session : Session
        Knows features and, maybe, the image.
    mask : Mask
        The object.
    reach : float
        How many pixels away its surroundings end.
    others : (Y, X) bool, optional
        Other objects on that plane, as large as the plane: no surroundings.
    """
    reach = round(reach)
    room = mask.box.grown(reach, reach).intersect(Box.of(session.features.size))
    inside = cut(mask.mask, mask.box, room, False)
    depths, away = distance_transform_edt(inside), distance_transform_edt(~inside)
    around = (away > RIM) & (away <= reach)
    if others is not None:
        around &= ~others[room.slices]
    values = values_of(session, mask.plane, room)
    return values[:, depths > min(1, depths.max() / 2)], values[:, around]


def shown(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the image's own part of `values_of`, where it is known, by the second sigma: (3, ...)."""
    first = len(values) - 3 * (len(SMOOTHED) - 1)  # three colours for each sigma come last
    return values[first : first + 3]


def values_of(session: Session, plane: Plane, box: Box) -> NDArray[np.float32]:
    """Return what says how pixels look: the finest maps, and the image where it is known. (C, Y, X), of `box`."""
    window = box.snapped
    inner = box.shift(-window.top, -window.left).slices
    maps = session.features.window(plane, window)[:LOOKED_AT]
    values = [
        fine.repeat(stride, 1).repeat(stride, 2)[:, *inner]
        for fine, stride in zip(maps, session.model.strides, strict=False)
    ]
    if session.image is not None:
        margin = round(3 * max(SMOOTHED))
        wide = box.grown(margin, margin).intersect(Box.of(session.features.size))
        pixels = session.image.read(plane, wide)
        inner = box.shift(-wide.top, -wide.left).slices
        values += [
            gaussian_filter(pixels, (sigma, sigma, 0)).transpose(2, 0, 1)[:, *inner] for sigma in SMOOTHED
        ]
    return np.concatenate(values)
