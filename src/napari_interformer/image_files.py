"""Image files in: TIFF and Zarr lazily, PNG and JPEG, with their axes and pixel size.

Enters: a path. Leaves: an `ImageFile`.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import weakref
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

import numpy as np
import tifffile

from napari_interformer.files import at_home, brief, is_url
from napari_interformer.units import SECONDS, is_length, named, ratio

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

log = logging.getLogger(__name__)
_SHOWN = {
    tifffile.PHOTOMETRIC.MINISWHITE: "with black for its highest values",
    tifffile.PHOTOMETRIC.PALETTE: "in colours from its palette",
    tifffile.PHOTOMETRIC.SEPARATED: "as amounts of ink",
}
# Files of microscopes and of other programs, by their endings, and what to do with them.
_FOREIGN = (".czi", ".lif", ".nd2", ".oib", ".oif", ".vsi", ".ims", ".h5", ".hdf5", ".hdf", ".n5")
_CONVERT = "save it as OME-TIFF or OME-Zarr first, for example in Fiji or with bioformats2raw"
_PLACES = ("scale", "translation")  # what OME-Zarr tells of where pixels lie
TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True)
class ImageFile:
    """What a file holds: an array (lazy for TIFF and zarr), its axes, and the pixel size per axis, in seconds for time.

    `scale` has None for axes whose pixel size it does not give; `translation` is where the first pixel lies, per axis.
    """

    data: Any
    axes: str | None = None
    _: KW_ONLY
    scale: tuple[float | None, ...] | None = None
    unit: str | None = None
    translation: tuple[float, ...] | None = None


def read_image(path: str | os.PathLike[str]) -> ImageFile:
    """Open a TIFF (OME, ImageJ, Big), PNG, JPEG or zarr array; TIFF and zarr are read lazily.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If it cannot be read as an image, or is cut short.
    """
    given, path = str(path), at_home(path)
    if not path.exists():
        if is_url(given):
            url = re.sub(":/+", "://", given, count=1)
            raise FileNotFoundError(f"An image must be on disk; got {url}: download it, and give its path.")
        raise FileNotFoundError(
            f"An image must be an existing file; got {given!r}, which does not exist: check the path."
        )
    if path.is_dir():
        return _read_zarr(path)
    with path.open("rb") as file:
        mark = file.read(4)
    if not mark:
        raise OSError(f"{path.name} is an empty file: copy it again.")
    if mark in TIFF_MARKS:
        return _read_tiff(path)
    try:
        data = read_picture(path)
    except Exception as error:  # Pillow raises what it likes
        reason = "" if "can not handle" in str(error) else f" ({brief(error)})"  # that says no more
        remedy = _CONVERT if path.suffix.lower() in _FOREIGN else "give a TIFF, PNG, JPEG or zarr"
        if mark[:2] == b"PK" and path.suffix.lower() != ".npz":
            remedy = "unzip it, and give the image in it"
        raise OSError(f"{path.name} cannot be read as an image{reason}: {remedy}.") from error
    # A picture that moves has its frames first.
    many = "TYXS" if data.ndim == 4 else "YXS" if data.shape[-1] <= 4 else "TYX"
    return ImageFile(data, "YX" if data.ndim == 2 else many)


def read_picture(path: Path, *, numbers: bool = False) -> NDArray[Any]:
    """Read a PNG, JPEG or BMP: (Y, X), or (Y, X, colours); with `numbers`, the indices of a palette and not its colours.

    Raises whatever Pillow raises.
    """
    import imageio.v3 as iio

    if is_halved(path):
        log.warning(
            "%s has 16 bits with colour or alpha, of which only 8 are read: save it as TIFF.", path.name
        )
    with _of_any_size():
        mode = iio.immeta(path, plugin="pillow")["mode"]
        # Of amounts of ink, Pillow knows what colours they make.
        wanted = {"CMYK": "RGB", "P": "P" if numbers else None}.get(mode)
        data = iio.imread(path, plugin="pillow", mode=wanted)
    # Pillow's True is 255.
    return np.not_equal(data, False) if data.dtype == bool else data


def warn_of_shown(name: str, series: tifffile.TiffPageSeries) -> None:
    """Say so if a TIFF's numbers are not what is shown of it."""
    if shown := _SHOWN.get(series.keyframe.photometric):
        log.warning("%s is meant to be shown %s; its numbers are used as they are.", name, shown)


def is_halved(path: Path) -> bool:
    """Whether a file is a PNG of 16 bits with colour or alpha: Pillow keeps only the upper half of each number."""
    with path.open("rb") as file:
        head = file.read(26)  # up to the bits of a number, and what a pixel consists of: 0 is one grey number
    return len(head) == 26 and head[:4] == b"\x89PNG" and head[24] == 16 and head[25] != 0


_alone = threading.Lock()  # Pillow's limit is one for all threads


@contextmanager
def _of_any_size() -> Iterator[None]:
    """Let Pillow open images of more than 179 megapixels, which it takes for attacks: a file that was named is wanted."""
    from PIL import Image

    with _alone:
        most, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = most


def _read_tiff(path: Path) -> ImageFile:
    import zarr

    try:
        tiff = tifffile.TiffFile(path)
    except Exception as error:  # a damaged file breaks tifffile in many places
        raise _damaged(path, error) from error
    try:
        ome = _ome_of(tiff)
        _check_own(ome, path)
        frames = frames_of(tiff)
        own = own_series(tiff)
        series = frames or own[0]
        # What comes after the first, is of another shape and no larger is thumbnails, labels and the like, but in OME-TIFF.
        more = [one for one in own[1:] if tiff.is_ome or one.shape == series.shape or one.size > series.size]
        if more and not frames:
            log.warning(
                "%s holds %d images; the first one is used, %s %s: save the others as separate files.",
                *(path.name, len(more) + 1, series.axes, series.shape),
            )
        if _is_cut(tiff, series, path.stat().st_size):
            raise OSError(f"{path.name} is cut short ({path.stat().st_size} bytes): copy it again.")
        if 0 in series.shape or not series.shape:
            raise OSError(f"{path.name} holds no pixels: choose another file.")
        if ome is not None:
            _check_planes(ome, series, path)
        warn_of_shown(path.name, series)
        scale, unit = _pixel_size(tiff, ome, series.axes)
        axes = axes_of_tiff(series)
        data: Any = None
        if not frames and all(page is not None and page.parent is tiff for page in series.pages):
            with suppress(ValueError):  # compressed, or in pieces
                # The system pages it.
                data = tifffile.memmap(path, mode="r", series=tiff.series.index(series))
        if data is None:
            data = zarr.open(series.aszarr(level=0), mode="r")
            weakref.finalize(data, tiff.close)
        else:
            tiff.close()
    except Exception as error:
        tiff.close()
        raise error if isinstance(error, OSError) else _damaged(path, error) from error
    return ImageFile(data, axes, scale=scale, unit=unit)


def axes_of_tiff(series: tifffile.TiffPageSeries) -> str:
    """Return a letter for each axis, C for grey channels side by side, which are no colours."""
    page, axes = series.keyframe, str(series.axes)
    alpha = {tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA}
    grey = page.photometric == tifffile.PHOTOMETRIC.MINISBLACK and not alpha & set(page.extrasamples)
    return axes.replace("S", "C") if grey and "C" not in axes else axes


def frames_of(tiff: tifffile.TiffFile) -> tifffile.TiffPageSeries | None:
    """Return frames that were written one by one, each of which tifffile takes for an image, as one stack; else None."""
    pages = [one.keyframe for one in tiff.series if len(one.pages) == 1]
    if tiff.is_ome or not 1 < len(pages) == len(tiff.series) or len({page.hash for page in pages}) > 1:
        return None
    shape = (len(pages), *pages[0].shape)
    return tifffile.TiffPageSeries(pages, shape, pages[0].dtype, axes=f"Q{pages[0].axes}", kind="generic")


def own_series(tiff: tifffile.TiffFile) -> list[tifffile.TiffPageSeries]:
    """Return the images of which some of the pixels lie in the file itself, or all if none do.

    One of several OME-TIFFs tells of the images in the others as well.
    """
    own = [one for one in tiff.series if any(page is not None and page.parent is tiff for page in one.pages)]
    return own or list(tiff.series)


def _ome_of(tiff: tifffile.TiffFile) -> ElementTree.Element | None:
    """Return what an OME-TIFF tells; None of any other, and where it is damaged: the pixels can be read without."""
    if not (tiff.is_ome and tiff.ome_metadata):
        return None
    try:
        return ElementTree.fromstring(tiff.ome_metadata)
    except ElementTree.ParseError as error:
        log.warning("the pixel size of %s was not understood: %s", tiff.filename, error)
        return None


def _check_own(ome: ElementTree.Element | None, path: Path) -> None:
    """Refuse an OME-TIFF that leaves it to another file to say what its planes are."""
    if ome is not None and (told := ome.find("{*}BinaryOnly")) is not None:
        raise OSError(
            f"{path.name} holds a part of an image that {told.get('MetadataFile', 'another file')} describes: give that file, "
            "in the same folder."
        )


def _images_of(ome: ElementTree.Element) -> list[ElementTree.Element]:
    """Return what OME tells of each image, that in the file itself first."""
    own = ome.get("UUID")  # whatever the file is called by now

    def elsewhere(image: ElementTree.Element) -> bool:
        return not any(one.text == own for one in image.iterfind("{*}Pixels/{*}TiffData/{*}UUID"))

    images = ome.findall("{*}Image")
    return sorted(images, key=elsewhere) if own else images


def _damaged(path: Path, error: Exception) -> OSError:
    return OSError(f"{path.name} is not a readable TIFF ({brief(error)}): save or copy it again.")


def _is_cut(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, size: int) -> bool:
    """Whether pixels lie beyond the file's end, or pages that the file announces are not there.

    tifffile alone opens what is left of such a file as a shorter stack.
    """
    about = tiff.imagej_metadata or {}
    if series.kind != "imagej" and about.get("images", 1) > len(tiff.pages):
        return True  # ImageJ may write all planes after a single page
    if series.dataoffset is not None:
        end = series.dataoffset + series.nbytes
    else:
        # An OME-TIFF may be one of several that make an image: the others' pages lie in the others.
        own = (p for p in series.pages if p is not None and p.parent is tiff)
        spans = ((p.dataoffsets, p.databytecounts) for p in own)
        end = max(
            (o + n for offsets, counts in spans for o, n in zip(offsets, counts, strict=True)), default=0
        )
    # A page ends with the offset of the next one, 0 in the last: tags are counted, then 12 or 20 bytes each.
    form, handle = tiff.tiff, tiff.filehandle
    order: Literal["little", "big"] = "little" if form.byteorder == "<" else "big"
    handle.seek(tiff.pages[len(tiff.pages) - 1].offset)
    tags = int.from_bytes(handle.read(form.tagnosize), order)
    handle.seek(tags * form.tagsize, 1)
    following = int.from_bytes(handle.read(form.offsetsize), order)
    return bool(end > size or following != 0)


def _check_planes(ome: ElementTree.Element, series: tifffile.TiffPageSeries, path: Path) -> None:
    """Refuse one of several OME-TIFFs of an image if another is missing, and warn of planes that no file has.

    tifffile alone makes both black.
    """
    there = [page for page in series.pages if page is not None]
    if not (lacking := len(series.pages) - len(there)):
        return
    told = f"{lacking} of the {len(series.pages)} planes of {path.name}"
    files = {page.parent.filename.lower() for page in there}
    own = ome.get("UUID")
    for image in _images_of(ome):
        places = list(image.iterfind("{*}Pixels/{*}TiffData/{*}UUID"))
        absent = {
            name: None
            for one in places
            if one.text != own and (name := one.get("FileName", "")).lower() not in files
        }
        if absent and len(absent) == len({one.get("FileName") for one in places}):
            continue  # tifffile leaves images out of which nothing is there
        if absent:
            first, *others = absent
            more = f" and {len(others)} more" if others else ""
            raise OSError(
                f"{told} are missing: they are in {first}{more}, which cannot be read; put all files of the image in one "
                "folder."
            )
        break
    log.warning("%s are not in its files and are shown black.", told)


def _pixel_size(
    tiff: tifffile.TiffFile, ome: ElementTree.Element | None, axes: str
) -> tuple[tuple[float | None, ...] | None, str | None]:
    """Return the pixel size per axis (see `ImageFile`) and its unit, from OME, ImageJ or the resolution tags."""
    sizes: dict[str, float] = {}
    unit, interval = None, 0.0
    try:
        tags = tiff.pages.first.tags
        resolution = {
            axis: tags[name].value[1] / tags[name].value[0]
            for axis, name in (("X", "XResolution"), ("Y", "YResolution"))
            if name in tags and tags[name].value[0]
        }
        if ome is not None:
            pixels = next(_images_of(ome)[0].iterfind("{*}Pixels")).attrib
            sizes = {a: float(pixels[f"PhysicalSize{a}"]) for a in "XYZ" if f"PhysicalSize{a}" in pixels}
            unit = pixels.get("PhysicalSizeXUnit", "µm")
            for axis in sizes.keys() - {"X"}:  # Z may come in another unit
                sizes[axis] *= ratio(pixels.get(f"PhysicalSize{axis}Unit", "µm"), unit) or math.nan
            if second := SECONDS.get(pixels.get("TimeIncrementUnit", "s")):
                interval = second * float(pixels.get("TimeIncrement", 0))
        elif tiff.is_imagej and tiff.imagej_metadata:
            told = tiff.imagej_metadata
            interval = float(told.get("finterval", 0)) * SECONDS.get(told.get("tunit", "s"), 0)
            unit = told.get("unit")
            if unit and unit not in ("pixel", "inch"):
                # Where planes come from the far end, ImageJ gives a distance below 0.
                spacing = {"Z": abs(float(told["spacing"]))} if "spacing" in told else {}
                sizes = {
                    axis: length * (ratio(told.get(f"{axis.lower()}unit", unit), unit) or math.nan)
                    for axis, length in (resolution | spacing).items()
                }
        elif not tiff.is_ome and "ResolutionUnit" in tags and int(tags["ResolutionUnit"].value) == 3:
            # Per centimetre: a microscope wrote it. Per inch is what drawing programs fill in.
            sizes, unit = {axis: 1e4 * length for axis, length in resolution.items()}, "micrometer"
    except Exception as error:  # metadata of every vintage; the pixels can be read without
        log.warning("the pixel size of %s was not understood: %s", tiff.filename, error)
    sizes = {a: size for a, length in sizes.items() if (size := _valid(length, tiff.filename, a)) is not None}
    unit = unit if sizes else None
    if 0 < interval < math.inf:  # which many writers leave at 0
        sizes["T"] = interval
    if not sizes.keys() & set(axes):
        return None, None
    return tuple(map(sizes.get, axes)), named(unit)


def _valid(length: float | None, name: str, axis: object) -> float | None:
    """Return the size of a pixel along an axis as a file gives it; None, and a warning, if it cannot be one."""
    if length is None or is_length(length):
        return length
    log.warning("the pixel size of %s along %s was not understood: %g", name, axis, length)
    return None


def _read_zarr(path: Path) -> ImageFile:
    import zarr

    if not any((path / mark).exists() for mark in ("zarr.json", ".zgroup", ".zarray")):
        if path.suffix.lower() in _FOREIGN:
            raise OSError(f"{path.name} is a folder, but not a zarr: {_CONVERT}.")
        raise OSError(
            f"{path.name or path} is a folder, but not a zarr: give a single file or a zarr; if each plane is a file, stack "
            "them first, for example by giving a list of them to tifffile.imread."
        )
    try:
        node, part = zarr.open(path, mode="r"), None
        if isinstance(node, zarr.Array):
            group = _group_of(path)
            if group is None:
                return ImageFile(node, axes_of(node))
            node, part = group, path.name
        about = ome_attributes(node)
        if "plate" in about:
            wells = about["plate"]["wells"]
            raise ValueError(f"it is a plate, whose first image is {wells[0]['path']}/0")
        if "well" in about:
            raise ValueError(f"it is a well, whose first image is {about['well']['images'][0]['path']}")
        if "bioformats2raw.layout" in about:  # a collection; the first image of it
            if (several := sum(name.isdigit() for name in node.group_keys())) > 1:
                log.warning(
                    "%s holds %d images; the first one is used: give %s for the next one, and so on.",
                    *(path.name, several, path.name + "/1"),
                )
            node = zarr.open_group(path / "0", mode="r")
            about = ome_attributes(node)
        if "multiscales" not in about:
            names = sorted(node.array_keys())
            raise ValueError(f"it is a group that holds {' and '.join(names) or 'no array'}")
        image = about["multiscales"][0]
        level = next(one for one in image["datasets"] if part in (None, one["path"]))
        data: Any = node[level["path"]]
        axes = [a if isinstance(a, dict) else {"name": a} for a in image.get("axes") or ()]
        if not axes and data.ndim == 5:
            axes = [{"name": name} for name in "tczyx"]  # as it was before 0.3, which let others be named
        letters = "".join(_letter(axis) for axis in axes)
        units = [axis.get("unit") for axis in axes]
        # A length is one whatever its axis is called.
        measured = [
            "Z" if axis.get("type") == "space" else letter for axis, letter in zip(axes, letters, strict=True)
        ]
        told = [of for of, letter in zip(units, measured, strict=True) if of and letter in "ZYX"]
        unit = told[-1] if told else None  # of X, or of what else has one
        scale, translation = _place_of(level, image, data.ndim, measured, units, unit)
        if scale is not None:
            scale = tuple(_valid(length, path.name, axis) for axis, length in enumerate(scale))
            scale = scale if any(scale) else None
    except Exception as error:  # zarr's stores raise what they like, and metadata is anybody's
        raise OSError(
            f"{path.name} is not a readable zarr image ({brief(error)}): give the path of an array or an OME-Zarr image."
        ) from error
    return ImageFile(data, letters or None, scale=scale, unit=unit, translation=translation)


def _group_of(path: Path) -> Any:
    """Return the OME-Zarr image of which a folder is one magnification; None if it is none."""
    import zarr

    with suppress(Exception):  # there is any folder above
        group = zarr.open_group(path.parent, mode="r")
        about = ome_attributes(group)
        image = about["multiscales"][0]
        data: Any = group[path.name]
        named = len(image.get("axes") or ()) in (0, data.ndim) and "plate" not in about
        return group if named and path.name in [one["path"] for one in image["datasets"]] else None
    return None


def ome_attributes(group: Any) -> Any:
    """Return what a group of OME-Zarr tells of itself, from version 0.5 on under a name of its own."""
    attributes = dict(group.attrs)
    return attributes.get("ome", attributes)


def axes_of(array: Any) -> str | None:
    """Return the axes as an array of xarray or of Zarr names them, one letter each; None if they have longer names, or none."""
    dims = getattr(array, "dims", None)
    told = dims or getattr(getattr(array, "metadata", None), "dimension_names", None)
    if not told and hasattr(array, "metadata"):  # so xarray names them in Zarr's version 2
        told = dict(array.attrs).get("_ARRAY_DIMENSIONS")
    names = "".join(map(str, told or ())).upper()
    if len(names) != len(getattr(array, "shape", ())) or not {*"YX"} <= {*names}:
        return None
    # What programs name in Zarr without saying so is no reason to refuse an image: such names count if they make sense.
    return names if dims or names.endswith(("YX", "YXC", "YXS")) else None


def _letter(axis: Any) -> str:
    """Return the letter for an axis of OME-Zarr: by its type, then its name; "?" for one that is neither."""
    name, kind = str(axis["name"]).upper() or "?", axis.get("type")
    if kind in ("channel", "time"):
        return str(kind[0].upper())
    # An axis of space may be called "slice", "section" or "column", and is none of samples or channels.
    known = "ZYX" if kind == "space" else "TCZYX"
    return name[0] if name[0] in known else "?"


def _place_of(
    level: Any, image: Any, ndim: int, letters: Sequence[str], units: Sequence[str | None], unit: str | None
) -> tuple[tuple[float | None, ...] | None, tuple[float, ...] | None]:
    """Return the pixel size per axis that OME-Zarr tells, and where the first pixel lies: lengths in `unit`, time in s.

    What it tells of the level comes first, then what it tells of all of them. Of an axis whose unit is not understood nothing
    is known.
    """
    told = [one for of in (level, image) for one in of.get("coordinateTransformations") or ()]
    # Numbers may also lie in a file of their own, which nobody writes.
    steps = [
        (kind, np.asarray(one[kind], float))
        for one in told
        if (kind := one["type"]) in _PLACES and kind in one
    ]
    if "scale" not in dict(steps) or any(step.shape != (ndim,) for _, step in steps):
        return None, None
    scale, first = np.ones(ndim), np.zeros(ndim)
    for kind, step in steps:
        if kind == "scale":
            scale, first = scale * step, first * step
        else:
            first = first + step
    lengths: list[float | None] = [*scale.tolist()]
    for axis, (letter, own) in enumerate(zip(letters, units, strict=True)):
        factor = _factor(letter, own, unit)
        # 1 without a unit is what writers fill in who do not know, if the others have one.
        guessed = scale[axis] == 1 and unit and not own
        lengths[axis] = None if factor is None or guessed else float(scale[axis] * factor)
        first[axis] *= factor or 0
    moved = first.any() and np.isfinite(first).all()
    return tuple(lengths), tuple(first.tolist()) if moved else None


def _factor(letter: str, unit: str | None, other: str | None) -> float | None:
    """Return by what to multiply lengths along an axis to have them in another unit, or seconds; None if that is not known."""
    if letter == "T":
        return SECONDS.get(str(unit))
    if letter == "?":
        return None
    return 1.0 if letter == "C" or unit is None else ratio(unit, other)
