"""What `segment` does on the command line, step by step: prompts are checked, answered, carried and committed.

It is imported by that command alone, so that no other one waits for what it needs.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import zarr

from napari_interformer.encoding import encode_tiles, room_for
from napari_interformer.features import Features
from napari_interformer.files import planes_of, temporary_folder
from napari_interformer.gaps import where_it_ends
from napari_interformer.geometry import Box
from napari_interformer.options import BOX_MARK, typed
from napari_interformer.prompts import Mark, Mask, NotEncodedError
from napari_interformer.records import Saved
from napari_interformer.similar import MOST_PIXELS
from napari_interformer.store import is_there, located
from napari_interformer.terminal import bar, count
from napari_interformer.volume import check_axes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from napari_interformer.gaps import Ended
    from napari_interformer.image import Contrast, Plane, Planes
    from napari_interformer.model import InterFormer
    from napari_interformer.prompts import BoxPrompt, Given
    from napari_interformer.session import Session

    EncodePart = Callable[[Sequence[tuple[Plane, Box]]], None]

_IN_MEMORY = 2**32  # bytes of labels; more of them wait on disk


@contextmanager
def labels_for(shape: tuple[int, ...], output: Path) -> Iterator[Any]:
    """Yield new labels for a session: None for memory or, where they would fill it, a Zarr beside `output` until the end."""
    if math.prod(shape) * np.dtype(np.int32).itemsize <= _IN_MEMORY:
        yield None
        return
    with temporary_folder(output.resolve().parent, ".labels-") as folder:
        chunks = (*(1 for _ in shape[:-2]), *(min(n, 512) for n in shape[-2:]))
        yield zarr.create_array(folder / "labels.zarr", shape=shape, chunks=chunks, dtype=np.int32)


def clicked_on(session: Session) -> list[Plane]:
    """Return the planes on which a finished object was clicked or boxed."""
    prompts = (prompt for record in session.records for prompt in record.prompts)
    return sorted({prompt.plane for prompt in prompts if not isinstance(prompt, Mask)})


def replay(session: Session, prompts: Path, propagate: bool, without: dict[int, str]) -> None:
    """Replay saved clicks and commit the object that they end with; carry those that were not carried when they were saved."""
    load_prompts(session, prompts)
    if session.unfinished:
        commit(session, without)
    if propagate:  # what has masks was carried, or taken from labels
        bare = {
            label for label, said in session.objects.items() if not any(isinstance(one, Mask) for one in said)
        }
        carry(session, sorted(bare & pixels_of(session).keys()))


def give(session: Session, prompt: Given, encode_part: EncodePart) -> None:
    """Add a prompt to the current object, and encode what its answer needs."""
    lacked: tuple[Plane, Box] | None = None
    while True:  # until it needs nothing more: an object may reach beyond what was there
        try:
            session.set_prompts((*session.prompts, prompt))
            return
        except NotEncodedError as missing:
            now = missing.plane, missing.box
            if now == lacked:
                raise  # it was encoded just now, and cannot be read
            lacked = now
            encode_part([now])


def propagate_shown(session: Session) -> None:
    """Carry the current object through the stack, show how far that is, and say where and why it ends."""
    ends: list[Ended] = []
    with bar("propagating", "plane") as show:
        session.propagate(progress=show, ended=ends.append)
    if ends:
        click.echo(f"object {session.label}: {where_it_ends(ends)}", err=True)


def commit(session: Session, without: dict[int, str]) -> None:
    """Finish the current object, or note why it has no pixel; its number stays its own."""
    if session.covered:
        without[session.label] = "all of it belongs to earlier objects"
        session.clear()
    elif session.empty:
        without[session.label] = "nothing was found at its clicks or boxes"
        session.clear()
    else:
        session.commit()


def similar_ones(
    session: Session, propagate: bool, encode_part: EncodePart
) -> tuple[list[str], ValueError | None]:
    """Find what looks like the objects that were clicked on, plane by plane, and carry it through the stack if asked to.

    Returns sentences that tell how much was found, and what was wrong; both are for the end, when everything is saved.
    """
    clicked = clicked_on(session)
    if not clicked:
        return [], ValueError(
            "--similar needs an object that was clicked on as an example; there is none: give clicks for one."
        )
    told, wrong = [], []
    for plane in clicked:
        encode_part([(plane, Box.of(session.features.size))])
        where = f"plane {', '.join(map(str, plane))}" if plane else ""
        try:
            with bar("finding", "place") as show:
                found = session.find_similar(plane, progress=show)
            told.append(f"{count(len(found), 'similar object')} found{where and f' on {where}'}")
            if propagate:
                carry(session, found, plane)
        except ValueError as error:
            wrong.append(f"{where.capitalize()}: {error}" if where else str(error))
    return told, ValueError(" ".join(wrong)) if wrong else None


def carry(session: Session, labels: Sequence[int], plane: Plane | None = None) -> None:
    """Carry finished objects through the stack, from one plane or from all of theirs."""
    if not labels:
        return
    with bar("propagating", "object") as show:
        for number, label in enumerate(labels, 1):
            session.edit(label, plane)
            session.propagate()
            session.commit()
            show(number, len(labels))


def report(session: Session, without: dict[int, str]) -> None:
    """Print how many pixels each object has, and why some have none."""
    sizes = pixels_of(session)
    for number in sorted({*without, *session.objects, *sizes} - {0}):
        # What others have covered since, too.
        told = "" if number in sizes else f": {without.get(number, 'all of it belongs to other objects')}"
        click.echo(f"object {number}: {count(sizes.get(number, 0), 'pixel')}{told}")


def pixels_of(session: Session) -> Counter[int]:
    """Count the pixels of each number in the labels, plane by plane: all at once would take several times their memory."""
    sizes: Counter[int] = Counter()
    for _, plane in planes_of(session.labels):
        numbers, counts = np.unique(plane, return_counts=True)
        sizes.update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
    return sizes


def busiest(session: Session) -> tuple[int, ...]:
    """Return the plane with the most labelled pixels."""
    return max(planes_of(session.labels), key=lambda plane: np.count_nonzero(plane[1]))[0]


def open_features(
    store: str | None, planes: Planes, model: InterFormer, contrast: Contrast
) -> tuple[Planes, Features]:
    """Open a store to continue, or make it; behind a URL it is only read. None is memory.

    The planes are returned with the contrast of the store, if none was asked for.
    """
    location = None if store is None else located(store)
    if location is None:
        return planes, room_for(planes, model)
    if isinstance(location, Path) and not is_there(location):
        click.echo(f"{location} does not exist yet: making a new store there.", err=True)
        return planes, room_for(planes, model, store=location)
    features = Features.open(
        location, mode="r" if isinstance(location, str) else "r+", image=planes, model=model
    )
    if contrast != "auto" and planes.contrast != features.contrast:
        raise ValueError(
            f"{location} holds features with another contrast: leave --contrast out to use that one, or name another store."
        )
    planes = features.source = planes.with_contrast(features.contrast)
    return planes, features


def encode_shown(
    planes: Planes,
    features: Features,
    model: InterFormer,
    device: str,
    only: Sequence[tuple[Plane, Box]] | None = None,
) -> None:
    """Encode some parts of an image, or all of it, and show the progress; behind a URL, check that nothing is missing."""
    if isinstance(features.path, str):
        parts = [(plane, None) for plane in planes.plane_indices()] if only is None else only
        if any(features.waiting(plane, box) for plane, box in parts):
            raise ValueError(
                f"{features.path} does not hold all that is needed, and behind a URL nothing can be added: encode the rest "
                "where the store is, or give a store on a disk."
            )
        return
    with bar("encoding", "tile") as show:
        for now in encode_tiles(planes, features, model, device=device, only=only):
            show(now.done, now.total)


def check_object(number: int, prompts: Sequence[Given], planes: Planes) -> None:
    """Refuse what is off the image, and an object without a box or a positive click, before minutes of encoding."""
    boxes: dict[Plane, BoxPrompt] = {}
    for prompt in prompts:
        check_inside(prompt, planes)
        check_valued(number, prompt, planes)
        if isinstance(prompt, Mark):
            continue
        if prompt.plane in boxes:
            raise ValueError(
                f"An object can have one box per plane; object {number} has {typed(boxes[prompt.plane])} and {typed(prompt)}: "
                f'give each object its own --object "{BOX_MARK}...".'
            )
        boxes[prompt.plane] = prompt
    if not boxes and not any(isinstance(prompt, Mark) and prompt.positive for prompt in prompts):
        raise ValueError(
            f"An object needs at least one positive click; object {number} has only negative ones "
            f"({' '.join(map(typed, prompts))}): add one without ,-."
        )


def check_inside(prompt: Given, planes: Planes) -> None:
    """Refuse a click, a line or a box that is off the image."""
    shape, axes = planes.shape, planes.axes
    if isinstance(prompt, Mark):
        noun, numbers, ends = "click", axes, list(prompt.path)
    else:
        noun, numbers, ends = "box", axes + axes[-2:], list(prompt.corners)
    if len(prompt.plane) != len(planes.leading):
        raise ValueError(
            f"A {noun} on this image needs {len(numbers)} numbers, {','.join(numbers)}; got {typed(prompt)}."
        )
    positions = [(*prompt.plane, *end) for end in ends]
    if not all(0 <= p < n for position in positions for p, n in zip(position, shape, strict=True)):
        whole = " x ".join(map(str, shape))
        raise ValueError(f"A {noun} must lie within the image, {whole} ({axes}); got {typed(prompt)}.")


def check_valued(number: int, prompt: Given, planes: Planes) -> None:
    """Refuse a click, a line or a box where the image has no value."""
    if planes.dtype.kind != "f":
        return
    noun, where = ("click", "at") if isinstance(prompt, Mark) else ("box", "in the middle of")
    for y, x in prompt.path if isinstance(prompt, Mark) else prompt.middle.path:
        if np.isnan(planes.raw(prompt.plane, Box.pixel(y, x))).any():
            raise ValueError(
                f"A {noun} needs pixels with a value; the image is NaN {where} {typed(prompt)} of object {number}: choose "
                "another place."
            )


def check_prompts(path: Path, image: Path, planes: Planes) -> None:
    """Refuse a file that holds no clicks, or those of another image, before hours of encoding."""
    if Saved.read(path).image != planes.fingerprint:
        raise ValueError(
            f"{path.name} was saved with another image than {image.name}, or with other channels of it: give those."
        )


def load_prompts(session: Session, path: Path) -> None:
    """Replay saved clicks, and print any warning about them in one line."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        session.load_prompts(path)
    for one in told:
        click.echo(one.message, err=True)


def check_stack(image: Path, planes: Planes) -> None:
    """Refuse to carry objects through what is no stack, or in no order for it, before minutes of encoding."""
    if max(planes.leading, default=1) == 1:
        raise ValueError(
            f"--propagate needs a stack; {image.name} has a single plane: leave --propagate out."
        )
    check_axes(planes.axes, planes.shape)


def check_searchable(image: Path, planes: Planes) -> None:
    """Refuse to search planes that are too large for it, before they are encoded."""
    pixels = math.prod(planes.size)
    if pixels > MOST_PIXELS:
        raise ValueError(
            f"--similar searches planes of at most {MOST_PIXELS / 1e6:.2f} megapixels; those of {image.name} have "
            f"{pixels / 1e6:.2f}: leave --similar out, or search parts of a plane from Python (Session.find_similar)."
        )
