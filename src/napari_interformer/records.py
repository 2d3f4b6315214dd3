"""What was said about each object, in order, what was painted by hand, and the file of both.

Replayed, it gives the same labels.
"""

from __future__ import annotations

import base64
import functools
import json
import math
import zlib
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_interformer.by_hand import Piece
from napari_interformer.files import brief, write_whole
from napari_interformer.geometry import Box, unpacked
from napari_interformer.prompts import BoxPrompt, Click, Mask, Scribble

if TYPE_CHECKING:
    from pathlib import Path

    from napari_interformer.prompts import Prompt

FORMAT = 1


@dataclass(frozen=True)
class Record:
    """How an object was made.

    Attributes
    ----------
    label : int
        Its number in the label image.
    prompts : tuple of Click, Scribble, BoxPrompt or Mask
        In order.
    size : float or None
        How large it was assumed to be when it began, in pixels.
    overwrite : bool
        Whether it could take pixels from others.
    edited : bool
        Whether it began with what its label had on these planes, and replaced that.
    begun : tuple of Mask
        What that was.
    decoder : str
        Fingerprint of how the prompts were answered; empty if they were not, or in files of earlier versions.
    """

    label: int
    prompts: tuple[Prompt, ...]
    _: KW_ONLY
    size: float | None
    overwrite: bool
    edited: bool
    begun: tuple[Mask, ...] = ()
    decoder: str = ""

    @property
    def is_deletion(self) -> bool:
        """Whether it says that all of an object was removed: an edit that leaves nothing cannot be finished."""
        return self.edited and not self.prompts

    @functools.cached_property
    def json(self) -> str:
        """The same as JSON; kept, since a file of many objects is written anew after each."""
        return json.dumps(_to_json(self))


@dataclass(frozen=True)
class Saved:
    """All records of a session.

    Attributes
    ----------
    image, model : str
        Fingerprints of what the prompts were given on, and of what had encoded it.
    finished : tuple of Record
        In the order of their commits; an object that was edited has several.
    current : Record
        Of the object that is not committed yet; perhaps without prompts.
    magnified : bool or None
        Whether small and large objects could be seen at other magnifications, since the image was at hand; None if the file
        does not tell.
    encoded : dict or None
        How the image was encoded: its contrast and tiling, as JSON has them; None if the file does not tell.
    by_hand : tuple of Piece
        What somebody painted into the labels.
    """

    image: str
    model: str
    finished: tuple[Record, ...]
    current: Record
    magnified: bool | None = None
    encoded: dict[str, Any] | None = None
    by_hand: tuple[Piece, ...] = ()

    def write(self, path: Path) -> Path:
        """Write JSON: whole or not at all."""
        about = {
            "format": FORMAT,
            "image": self.image,
            "model": self.model,
            "magnified": self.magnified,
            "encoded": self.encoded,
            "by_hand": list(map(_piece_to_json, self.by_hand)),
        }
        head = json.dumps(about)[:-1]
        objects = ", ".join(record.json for record in self.finished)
        return write_whole(path, f'{head}, "objects": [{objects}], "current": {self.current.json}}}'.encode())

    @staticmethod
    def is_in(path: Path) -> bool:
        """Whether a file begins like one that `write` wrote, damaged or of a later version though it may be."""
        start = b'{"format": '
        try:
            with path.open("rb") as file:
                return file.read(len(start)) == start
        except OSError:
            return False

    @classmethod
    def read(cls, path: Path) -> Saved:
        """Read what `write` wrote.

        Raises
        ------
        ValueError
            If the file is something else, damaged, or of a later version.
        FileNotFoundError
            If there is no such file.
        OSError
            If it cannot be read.
        """
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise FileNotFoundError(
                f"Saved clicks must be a file from Save clicks or save_prompts; got {str(path)!r}, which {what}: check it."
            )
        try:
            text = path.read_bytes()
        except OSError as error:
            raise OSError(
                f"{path.name} could not be read ({error.strerror or brief(error)}): check the disk, and your permissions."
            ) from error
        try:
            content = json.loads(text.decode())
            if content["format"] == FORMAT:
                finished = tuple(map(_from_json, content["objects"]))
                return cls(
                    str(content["image"]),
                    str(content["model"]),
                    finished,
                    _from_json(content["current"]),
                    content.get("magnified"),
                    content.get("encoded"),
                    tuple(map(_piece_from_json, content.get("by_hand", ()))),  # earlier files have none
                )
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
            MemoryError,
            RecursionError,
            zlib.error,
        ):
            raise ValueError(
                f"Saved clicks must be a file from Save clicks or save_prompts; {path.name} is something else or damaged: "
                "choose another file."
            ) from None
        raise ValueError(
            f"Saved clicks must have format {FORMAT}; {path.name}, from a later version of napari-interformer, has "
            f"{content['format']}: update the package."
        )


def _to_json(record: Record) -> dict[str, Any]:
    return {
        "label": int(record.label),
        "size": None if record.size is None else float(record.size),
        "overwrite": record.overwrite,
        "edited": record.edited,
        "prompts": list(map(_prompt_to_json, record.prompts)),
        "begun": list(map(_prompt_to_json, record.begun)),
        "decoder": record.decoder,
    }


def _from_json(entry: dict[str, Any]) -> Record:
    size = None if entry["size"] is None else float(entry["size"])
    if size is not None and not 0 < size < math.inf:
        raise ValueError("not written by this package")
    return Record(
        int(entry["label"]),
        tuple(map(_prompt_from_json, entry["prompts"])),
        size=size,
        overwrite=bool(entry["overwrite"]),
        edited=bool(entry["edited"]),
        # Earlier files have none, nor the next.
        begun=tuple(map(_mask_from_json, entry.get("begun", ()))),
        decoder=str(entry.get("decoder", "")),
    )


def _prompt_to_json(prompt: Prompt) -> dict[str, Any]:
    if isinstance(prompt, Click):
        return {"click": list(map(int, prompt.position)), "positive": bool(prompt.positive)}
    if isinstance(prompt, Scribble):
        stops = [list(map(int, (*prompt.plane, *stop))) for stop in prompt.path]
        return {"scribble": stops, "positive": bool(prompt.positive)}
    place = {"plane": list(map(int, prompt.plane)), "box": list(map(int, prompt.box))}
    if isinstance(prompt, BoxPrompt):
        return place
    return {"mask": _encoded(np.packbits(prompt.mask).tobytes()), **place}


def _prompt_from_json(entry: dict[str, Any]) -> Prompt:
    if "click" in entry:
        return Click.at(entry["click"], entry["positive"])
    if "scribble" in entry:
        return Scribble.along(entry["scribble"], entry["positive"])
    return _mask_from_json(entry) if "mask" in entry else BoxPrompt(*_place_from_json(entry))


def _place_from_json(entry: dict[str, Any]) -> tuple[tuple[int, ...], Box]:
    return tuple(map(int, entry["plane"])), Box(*map(int, entry["box"]))


def _mask_from_json(entry: dict[str, Any]) -> Mask:
    plane, box = _place_from_json(entry)
    return Mask(plane, box, unpacked(_decoded(entry["mask"]), box.shape))


def _piece_to_json(piece: Piece) -> dict[str, Any]:
    return {
        "plane": list(map(int, piece.plane)),
        "box": list(map(int, piece.box)),
        "pixels": _encoded(piece.pixels),
        "numbers": list(piece.numbers),
    }


def _piece_from_json(entry: dict[str, Any]) -> Piece:
    piece = Piece(*_place_from_json(entry), _decoded(entry["pixels"]), tuple(map(int, entry["numbers"])))
    if piece.values.shape != (np.count_nonzero(piece.mask),) or min(piece.numbers[1::2]) < 0:
        raise ValueError("not written by this package")
    return piece


def _encoded(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode()


def _decoded(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))
