"""Saved clicks become objects again: whether a file belongs to a session, and what its prompts give there.

Enters: a file of `records.Saved`, and a session, in which nothing changes. Leaves: a `Replay` for `Session.adopt_saved`.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_interformer.files import planes_of
from napari_interformer.geometry import Box, cut
from napari_interformer.image import plane_of
from napari_interformer.painting import check_number
from napari_interformer.prompts import Mask
from napari_interformer.records import Record, Saved

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_interformer.by_hand import Piece
    from napari_interformer.decoding import Steps
    from napari_interformer.features import Features
    from napari_interformer.image import Plane
    from napari_interformer.painting import LabelArray
    from napari_interformer.session import Session

Answered = tuple[Record, "Steps"]


class Replay(NamedTuple):
    """What is in a file: the finished objects with the answers to their prompts, the current one, and what was painted."""

    finished: tuple[Answered, ...]
    current: Answered
    by_hand: tuple[Piece, ...]

    @property
    def numbers(self) -> set[int]:
        """Those of all objects, of which some may have been painted by hand."""
        records = [record for record, _ in (*self.finished, self.current)]
        painted = {number for piece in self.by_hand for number in piece.objects}
        return {record.label for record in records if record.prompts} | painted


def replay(session: Session, path: Path) -> Replay:
    """Answer all prompts of a file; all of the session's labels are read.

    Warns
    -----
    UserWarning
        If they were given on other features or to another model, or only there or only here with the image at hand.

    Raises
    ------
    ValueError, FileNotFoundError, OSError
        As `Saved.read`; if the file belongs to another image, or the labels have other objects with the numbers of those in
        it, or cannot hold these.
    NotEncodedError
        If a part of the image is not encoded yet.
    """
    saved = Saved.read(path)
    if saved.image != session.features.image_fingerprint:
        raise ValueError(f"{path.name} belongs to another image: open the image that was clicked on.")
    for why in _unlike(saved, session):
        warnings.warn(f"{path.name} {why}", stacklevel=4)  # where somebody loads it
    told = (*saved.finished, saved.current)
    # What is among the prompts is checked where it is answered.
    begun = [(mask.plane, mask.box) for record in told for mask in record.begun]
    for plane, box in (*begun, *((piece.plane, piece.box) for piece in saved.by_hand)):
        plane_of(plane, session.features.leading)
        if not Box.of(session.features.size).holds(box):
            raise ValueError(f"{path.name} is damaged: it has pixels outside the image, in {box}.")
    _check_free(session.labels, told)
    *finished, current = ((record, session.decoding.steps(record.prompts, record.size)) for record in told)
    answers = Replay(tuple(finished), current, saved.by_hand)
    for number in answers.numbers:
        check_number(session.labels, number)
    lowest = min((number for piece in saved.by_hand for number in piece.numbers[::2]), default=0)
    if lowest < np.iinfo(session.labels.dtype).min:
        raise ValueError(
            f"{path.name} has pixels of {lowest}, which labels of dtype {session.labels.dtype} cannot hold: use int32."
        )
    return answers


def encoded(features: Features) -> dict[str, Any]:
    """Return how features were made, beyond the image and the model, as JSON has it."""
    contrast = features.contrast
    limits = contrast if isinstance(contrast, str) else [[float(low), float(high)] for low, high in contrast]
    return {"contrast": limits, "core": features.origin.core, "halo": features.origin.halo}


def _unlike(saved: Saved, session: Session) -> Iterator[str]:
    """Say why prompts may be answered differently here."""
    same = "may answer its clicks differently"
    others = {record.decoder for record in (*saved.finished, saved.current)}
    others -= {"", session.model.decoder_fingerprint}
    if saved.model != session.features.model_fingerprint or others:
        yield f"was made with another model; this one {same}."
    if saved.encoded is not None and saved.encoded != encoded(session.features):
        yield f"was made with another contrast or tiling; on these features the model {same}."
    if saved.magnified and session.image is None:
        yield (
            "was made with the image, so that small and large objects were seen at other magnifications; this session has no "
            f"image and {same}: make it with Session(features, model, image=image)."
        )
    elif saved.magnified is False and session.image is not None:
        yield (
            "was made without the image, from its features alone; this session sees small and large objects at other "
            f"magnifications and {same}."
        )


def _check_free(labels: LabelArray, records: Sequence[Record]) -> None:
    """Refuse new objects whose numbers are taken, unless what has them is deleted before, and edits of other objects."""
    deleted: set[int] = set()
    new: set[int] = set()
    for record in records:
        if record.is_deletion:
            deleted.add(record.label)
        elif record.prompts and not record.edited and record.label not in deleted:
            new.add(record.label)
    edited = {record.label for record in records if record.edited}
    present: set[int] = set()
    same: set[int] = set()
    for index, plane in planes_of(labels) if new or edited else ():
        # As Python's numbers: NumPy makes unsigned and signed ones of 64 bits into rounded ones.
        there = set(np.unique(plane).tolist())
        if taken := new & there:
            raise ValueError(
                f"Saved clicks need labels without their objects; object {min(taken)} is there already: load them into new, "
                "empty labels."
            )
        present |= there
        unsure = edited & there - same
        same |= {
            record.label for record in records if record.label in unsure and _lies_on(record, index, plane)
        }
    if others := edited & present - same:
        raise ValueError(
            f"Saved clicks need the objects that were edited or deleted; object {min(others)} is another one: load them into "
            "the labels that were clicked on, or into new, empty ones."
        )


def _lies_on(record: Record, plane: Plane, labels: NDArray[Any]) -> bool:
    """Whether an object, of all that is said of it on a plane, has a pixel of its number in the labels there."""
    for prompt in (*record.begun, *record.prompts):
        if prompt.plane != plane:
            continue
        if isinstance(prompt, Mask):
            box, mask = prompt.box, prompt.mask
        else:
            click = prompt.middle
            box, mask = Box.pixel(click.y, click.x), np.array([[click.positive]])
        there = cut(labels, Box.of(labels.shape), box, 0)
        if (there[mask] == record.label).any():
            return True
    return False
