"""Image files in, label files out: TIFF and zarr lazily, with axes and pixel size."""

from __future__ import annotations

import errno
import itertools
import logging
import math
import os
import re
import shutil
import stat
import tempfile
import weakref
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from xml.etree import ElementTree

import numpy as np
import tifffile

from napari_interformer import NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

log = logging.getLogger(__name__)

_CHUNK, _COARSEST = 512, 512  # sides in pixels: of OME-Zarr's chunks, and the least of its coarser levels
LABEL_FILES = (".tif", ".tiff", ".zarr")
_SHOWN = {
    tifffile.PHOTOMETRIC.MINISWHITE: "with black for its highest values",
    tifffile.PHOTOMETRIC.PALETTE: "in colours from its palette",
    tifffile.PHOTOMETRIC.SEPARATED: "as amounts of ink",
}
# Files of microscopes and of other programs, by their endings, and what to do with them.
_FOREIGN = (".czi", ".lif", ".nd2", ".oib", ".oif", ".vsi", ".ims", ".h5", ".hdf5", ".hdf", ".n5")
_CONVERT = "save it as OME-TIFF or OME-Zarr first, for example in Fiji or with bioformats2raw"
_PLACES = ("scale", "translation")  # what OME-Zarr tells of where pixels lie
_TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# What the folder of a group of Zarr holds beside its members, and what systems leave in any folder, also by its beginning.
_OF_GROUPS = {".zgroup", ".zattrs", ".zmetadata", "zarr.json"}
_OF_SYSTEMS = (".DS_Store", "Thumbs.db", "desktop.ini", "._", ".nfs")
_ZARR_MARKS = {2: ".zarray", 3: "zarr.json"}  # what a folder with an array holds, by Zarr's versions
_LOOKED_AT = 4  # arrays of Zarr behind one of Dask, at each reading


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


def at_home(path: str | os.PathLike[str]) -> Path:
    """Return an absolute path, since the working directory may change; only shells know ~, so it is the home folder here."""
    return Path(os.path.expanduser(path)).absolute()


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL, of whose two slashes a `Path` keeps one; a drive of Windows has a single letter."""
    return re.match(r"[A-Za-z][\w+.-]+:[/\\]", os.fspath(path)) is not None


def gone(array: Any) -> Path | None:
    """Return the folder of an array of Zarr, or of one that Dask reads from, if that is not there any more; None for others.

    Zarr takes pixels that it does not find for empty ones, so it reads nothing else from such a folder, and makes it
    anew to write to. To know that costs a look at one file; the folder itself may be there, as where a drive was mounted.
    """
    sources = _sources(array) if hasattr(array, "dask") else (array,)
    return next((folder for folder in map(_gone, sources) if folder is not None), None)


def _sources(lazy: Any) -> Iterator[Any]:
    """Go through what an array of Dask reads from, as far as its graph tells; of many, the first ones: they lie together."""
    layers = getattr(lazy.dask, "layers", {})
    kept = (layer[name] for name, layer in layers.items() if layer.is_materialized() and name in layer)
    return itertools.islice((source for source in kept if hasattr(source, "store")), _LOOKED_AT)


def _gone(array: Any) -> Path | None:
    root = _root(getattr(array, "store", None))
    if root is None:  # no array of Zarr, or in no folder
        return None
    folder = root / array.path
    if (folder / _ZARR_MARKS[array.metadata.zarr_format]).exists():
        return None
    return None if folder.is_dir() and _is_consolidated(root) else folder


def _root(store: Any) -> Path | None:
    """Return the folder of a store of Zarr's, if it is in one, however it was opened."""
    root, files = getattr(store, "root", None), getattr(store, "fs", None)
    protocols = getattr(getattr(files, "sync_fs", files), "protocol", ())
    if "file" in ([protocols] if isinstance(protocols, str) else protocols):  # fsspec's, as Dask opens a path
        root = Path(store.path)
    return root if isinstance(root, Path) else None


def _is_consolidated(root: Path) -> bool:
    """Whether a group tells of its arrays itself, which then need no file for that."""
    about = root / _ZARR_MARKS[3]
    return (root / ".zmetadata").exists() or (about.exists() and "consolidated_metadata" in about.read_text())


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
    if mark in _TIFF_MARKS:
        return _read_tiff(path)
    try:
        data = read_picture(path)
    except Exception as error:  # Pillow raises what it likes
        reason = "" if "can not handle" in str(error) else f" ({brief(error)})"  # that says no more
        remedy = _CONVERT if path.suffix.lower() in _FOREIGN else "give a TIFF, PNG, JPEG or zarr"
        if path.suffix.lower() == ".zip":
            remedy = "unzip it, and give the image in it"
        raise OSError(f"{path.name} cannot be read as an image{reason}: {remedy}.") from error
    return ImageFile(data, {2: "YX", 3: "YXS", 4: "TYXS"}.get(data.ndim))


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


def is_halved(path: Path) -> bool:
    """Whether a file is a PNG of 16 bits with colour or alpha: Pillow keeps only the upper half of each number."""
    with path.open("rb") as file:
        head = file.read(26)  # up to the bits of a number, and what a pixel consists of: 0 is one grey number
    return len(head) == 26 and head[:4] == b"\x89PNG" and head[24] == 16 and head[25] != 0


@contextmanager
def _of_any_size() -> Iterator[None]:
    """Let Pillow open images of more than 179 megapixels, which it takes for attacks: a file that was named is wanted."""
    from PIL import Image

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
        frames = frames_of(tiff)
        series = frames or tiff.series[0]
        # What comes after the first, is of another shape and no larger is thumbnails, labels and the like, but in OME-TIFF.
        more = [
            one
            for one in tiff.series[1:]
            if tiff.is_ome or one.shape == series.shape or one.size > series.size
        ]
        if more and not frames:
            log.warning(
                "%s holds %d images; the first one is used, %s %s: save the others as separate files.",
                *(path.name, len(more) + 1, series.axes, series.shape),
            )
        if _is_cut(tiff, series, path.stat().st_size):
            raise OSError(f"{path.name} is cut short ({path.stat().st_size} bytes): copy it again.")
        if 0 in series.shape or not series.shape:
            raise OSError(f"{path.name} holds no pixels: choose another file.")
        if tiff.is_ome:
            _check_planes(tiff, series, path)
        if shown := _SHOWN.get(series.keyframe.photometric):
            log.warning("%s is meant to be shown %s; its numbers are used as they are.", path.name, shown)
        scale, unit = _pixel_size(tiff, series.axes)
        axes = series.axes
        if series.keyframe.photometric == tifffile.PHOTOMETRIC.MINISBLACK and "C" not in axes:
            alpha = tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA
            if not set(alpha) & set(series.keyframe.extrasamples):
                axes = axes.replace("S", "C")  # grey channels side by side, and no colours
        data: Any = None
        if not frames:
            with suppress(ValueError):  # compressed, or in pieces
                data = tifffile.memmap(path, mode="r")  # the system pages it
        if data is None:
            data = zarr.open(series.aszarr(level=0), mode="r")
            weakref.finalize(data, tiff.close)
        else:
            tiff.close()
    except Exception as error:
        tiff.close()
        raise error if isinstance(error, OSError) else _damaged(path, error) from error
    return ImageFile(data, axes, scale=scale, unit=unit)


def frames_of(tiff: tifffile.TiffFile) -> tifffile.TiffPageSeries | None:
    """Return frames that were written one by one, each of which tifffile takes for an image, as one stack; else None."""
    pages = [one.keyframe for one in tiff.series if len(one.pages) == 1]
    if tiff.is_ome or not 1 < len(pages) == len(tiff.series) or len({page.hash for page in pages}) > 1:
        return None
    shape = (len(pages), *pages[0].shape)
    return tifffile.TiffPageSeries(pages, shape, pages[0].dtype, axes=f"Q{pages[0].axes}", kind="generic")


def _damaged(path: Path, error: Exception) -> OSError:
    return OSError(f"{path.name} is not a readable TIFF ({brief(error)}): save or copy it again.")


def _is_cut(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, size: int) -> bool:
    """Whether pixels lie beyond the file's end, or pages that the file announces are not there.

    tifffile alone opens what is left of such a file as a shorter stack.
    """
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
    handle.seek(tiff.pages[len(tiff.pages) - 1].offset)
    tags = int.from_bytes(handle.read(form.tagnosize), _order(form.byteorder))
    handle.seek(tags * form.tagsize, 1)
    following = int.from_bytes(handle.read(form.offsetsize), _order(form.byteorder))
    return bool(end > size or following != 0)


def _check_planes(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, path: Path) -> None:
    """Refuse one of several OME-TIFFs of an image if another is missing, and warn of planes that no file has.

    tifffile alone makes both black.
    """
    there = [page for page in series.pages if page is not None]
    if not (lacking := len(series.pages) - len(there)):
        return
    told = f"{lacking} of the {len(series.pages)} planes of {path.name}"
    files = {page.parent.filename.lower() for page in there}
    root = ElementTree.fromstring(tiff.ome_metadata or "")
    for image in root.iterfind("{*}Image"):
        places = list(image.iterfind("{*}Pixels/{*}TiffData/{*}UUID"))
        own = root.get("UUID")  # whatever the file is called by now
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


def _order(mark: str) -> Literal["little", "big"]:
    return "little" if mark == "<" else "big"


class _Length(NamedTuple):
    """A unit of length: its name in OME-Zarr and in napari, how OME-TIFF writes it, and what others call it."""

    name: str
    mark: str
    micrometers: float
    aliases: tuple[str, ...] = ()


_LENGTHS = {
    name: unit
    for unit in (
        _Length("picometer", "pm", 1e-6),
        _Length("angstrom", "Å", 1e-4, ("\N{ANGSTROM SIGN}", "Angstrom")),
        _Length("nanometer", "nm", 1e-3),
        _Length("micrometer", "µm", 1.0, ("um", "micron", "microns", "\\u00B5m", "μm")),
        _Length("millimeter", "mm", 1e3),
        _Length("centimeter", "cm", 1e4),
        _Length("meter", "m", 1e6),
    )
    for name in (unit.name, unit.mark, *unit.aliases)
}
_SECONDS = {
    **dict.fromkeys(("ms", "millisecond"), 1e-3),
    **dict.fromkeys(("s", "second"), 1.0),
    **dict.fromkeys(("min", "minute"), 60.0),
    **dict.fromkeys(("h", "hour"), 3600.0),
}


def _named(unit: str | None) -> str | None:
    """Return the name of a unit of length that goes by several; any other as it is."""
    length = _LENGTHS.get(str(unit))  # metadata may hold anything
    return length.name if length else unit


def _ratio(unit: str | None, other: str | None) -> float:
    """Return how many of another unit one makes, whatever they are called; 1 where they are not both known lengths."""
    one, another = _LENGTHS.get(str(unit)), _LENGTHS.get(str(other))
    return one.micrometers / another.micrometers if one and another else 1.0


def _pixel_size(tiff: tifffile.TiffFile, axes: str) -> tuple[tuple[float | None, ...] | None, str | None]:
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
        if tiff.is_ome and tiff.ome_metadata:
            pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]
            pixels = (pixels[0] if isinstance(pixels, list) else pixels)["Pixels"]
            sizes = {a: float(pixels[f"PhysicalSize{a}"]) for a in "XYZ" if f"PhysicalSize{a}" in pixels}
            unit = pixels.get("PhysicalSizeXUnit", "µm")
            for axis in sizes.keys() - {"X"}:  # Z may come in another unit
                other = pixels.get(f"PhysicalSize{axis}Unit", "µm")
                sizes[axis] *= _ratio(other, unit)
            if second := _SECONDS.get(pixels.get("TimeIncrementUnit", "s")):
                interval = second * float(pixels.get("TimeIncrement", 0))
        elif tiff.is_imagej and tiff.imagej_metadata:
            interval = float(tiff.imagej_metadata.get("finterval", 0))
            unit = tiff.imagej_metadata.get("unit")
            if unit and unit not in ("pixel", "inch"):
                sizes = resolution
                if "spacing" in tiff.imagej_metadata:
                    sizes = {**sizes, "Z": float(tiff.imagej_metadata["spacing"])}
        elif "ResolutionUnit" in tags and int(tags["ResolutionUnit"].value) == 3:
            # Per centimetre: a microscope wrote it. Per inch is what drawing programs fill in.
            sizes, unit = {axis: 1e4 * length for axis, length in resolution.items()}, "micrometer"
    except Exception as error:  # metadata of every vintage; the pixels can be read without
        log.warning("the pixel size of %s was not understood: %s", tiff.filename, error)
    if not _are_lengths(sizes.values()):
        sizes.clear()
    unit = unit if sizes else None
    if 0 < interval < math.inf:  # which many writers leave at 0
        sizes["T"] = interval
    if not sizes.keys() & set(axes):
        return None, None
    return tuple(map(sizes.get, axes)), _named(unit)


def _are_lengths(numbers: Iterable[float]) -> bool:
    return all(0 < number < math.inf for number in numbers)


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
        node = zarr.open(path, mode="r")
        if isinstance(node, zarr.Array):
            return ImageFile(node, axes_of(node))
        attributes: Any = dict(node.attrs)
        about = attributes.get("ome", attributes)
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
            attributes = dict(node.attrs)
            about = attributes.get("ome", attributes)
        if "multiscales" not in about:
            names = sorted(node.array_keys())
            raise ValueError(f"it is a group that holds {' and '.join(names) or 'no array'}")
        image = about["multiscales"][0]
        level = image["datasets"][0]
        data: Any = node[level["path"]]
        axes = [a if isinstance(a, dict) else {"name": a} for a in image.get("axes", [])]
        if not axes and data.ndim == 5:
            axes = [{"name": name} for name in "tczyx"]  # as it was before 0.3, which let others be named
        letters = "".join(_letter(axis) for axis in axes)
        unit = axes[-1].get("unit") if axes else None
        units = [axis.get("unit") for axis in axes]
        lengths, translation = _place_of(level, image, data.ndim, units)
        if lengths is not None and not _are_lengths(lengths):
            log.warning("the pixel size of %s is not valid: %s", path.name, lengths)
            lengths = translation = None
        scale: Any = lengths
        if lengths is not None and unit:  # 1 without a unit is what writers fill in who do not know
            scale = tuple(
                length if own or length != 1 else None for length, own in zip(lengths, units, strict=True)
            )
    except Exception as error:  # zarr's stores raise what they like, and metadata is anybody's
        raise OSError(
            f"{path.name} is not a readable zarr image ({brief(error)}): give the path of an array or an OME-Zarr image."
        ) from error
    return ImageFile(data, letters or None, scale=scale, unit=unit, translation=translation)


def axes_of(array: Any) -> str | None:
    """Return the axes as an array of xarray or of Zarr names them, one letter each; None if they have longer names, or none."""
    dims = getattr(array, "dims", None)
    told = dims or getattr(getattr(array, "metadata", None), "dimension_names", None)
    names = "".join(map(str, told or ())).upper()
    if len(names) != len(getattr(array, "shape", ())) or not {*"YX"} <= {*names}:
        return None
    # What programs name in Zarr without saying so is no reason to refuse an image: such names count if they make sense.
    return names if dims or names.endswith(("YX", "YXC", "YXS")) else None


def _letter(axis: Any) -> str:
    """Return the letter for an axis of OME-Zarr: by its type, then its name; "?" for one that is neither."""
    name, kind = str(axis["name"]).upper(), axis.get("type")
    if kind in ("channel", "time"):
        return str(kind[0].upper())
    # An axis of space may be called "slice", "section" or "column", and is none of samples or channels.
    known = "ZYX" if kind == "space" else "TCZYX"
    return name[0] if name[0] in known else "?"


def _place_of(
    level: Any, image: Any, ndim: int, units: Sequence[str | None]
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Return the pixel size per axis that OME-Zarr tells, and where the first pixel lies: lengths in the unit of X, time in s.

    What it tells of the level comes first, then what it tells of all of them.
    """
    told = (*level.get("coordinateTransformations", ()), *image.get("coordinateTransformations", ()))
    steps = [(one["type"], np.asarray(one[one["type"]], float)) for one in told if one["type"] in _PLACES]
    if "scale" not in dict(steps) or any(step.shape != (ndim,) for _, step in steps):
        return None, None
    scale, first = np.ones(ndim), np.zeros(ndim)
    for kind, step in steps:
        if kind == "scale":
            scale, first = scale * step, first * step
        else:
            first = first + step
    for axis, unit in enumerate(units):
        factor = _SECONDS.get(str(unit)) or _ratio(unit, units[-1])
        scale[axis] *= factor
        first[axis] *= factor
    moved = first.any() and np.isfinite(first).all()
    return tuple(scale.tolist()), tuple(first.tolist()) if moved else None


def write_labels(
    path: str | os.PathLike[str],
    labels: Any,
    *,
    axes: str | None = None,
    scale: Sequence[float | None] | None = None,
    unit: str | None = None,
    translation: Sequence[float] | None = None,
) -> Path:
    """Write a label image as compressed OME-TIFF or OME-Zarr, plane by plane, whole or not at all.

    Parameters
    ----------
    path : str or Path
        OME-Zarr if it ends in .zarr, OME-TIFF if it ends in .tif or .tiff. An existing file is replaced, and so are labels
        in OME-Zarr; `written_here` says whether that is a loss.
    labels : (..., Y, X) integer
        Any array that can be indexed; stored in the smallest unsigned type that holds it. In OME-Zarr the axes come in the
        order T, C, Z, Y, X, whatever theirs was. Readers of TIFF, such as `tifffile.imread`, leave out axes of length 1.
    axes : str, optional
        One letter per axis of `labels`, Y and X last; letters that OME-TIFF does not know, and all before them if None, become
        Z, T and C.
    scale, unit : optional
        Pixel size per axis of `labels`, above 0; None where it is not known. For an axis that `axes` calls T, the seconds
        from one time point to the next.
    translation : optional
        Where the first pixel lies, per axis of `labels`, in `unit`. Only OME-Zarr keeps it.

    Returns
    -------
    Path
        The path.

    Raises
    ------
    TypeError, ValueError
        If labels are not integers or are negative, if axes, scale or translation do not fit them, or if the path is a folder
        of something else or has another ending.
    OSError
        If it cannot be written; a file that was there before is untouched.
    """
    path = at_home(path)
    if not hasattr(labels, "shape") or not hasattr(labels, "dtype"):
        raise TypeError(
            f"A label image must be an array of integers; got {type(labels).__name__}: convert it with numpy.asarray."
        )
    shape = tuple(labels.shape)
    if np.dtype(labels.dtype).kind not in "bui":
        raise TypeError(
            f"A label image must hold integers; got {labels.dtype}: convert it, for example with astype(int)."
        )
    check_labels_file(path, shape)
    if axes is not None and len(axes) != len(shape):
        raise ValueError(f"axes takes one letter per axis of labels of shape {shape}; got {axes!r}.")
    if axes is not None and axes[-2:].upper() != "YX":
        raise ValueError(f"axes must end with Y and X; got {axes!r}: move the axes with numpy.moveaxis.")
    lengths = None if scale is None else np.asarray(scale)
    if lengths is not None and lengths.dtype == object:
        lengths = np.asarray([1 if length is None else length for length in lengths])
    if lengths is not None and not (
        lengths.shape == (len(shape),) and lengths.dtype.kind in "iuf" and _are_lengths(lengths)
    ):
        raise ValueError(
            f"scale takes one length above 0 per axis of labels of shape {shape}; got {scale!r}: correct it, or leave it out."
        )
    first = None if translation is None else np.asarray(translation, float)
    if first is not None and not (first.shape == (len(shape),) and np.isfinite(first).all()):
        raise ValueError(
            f"translation takes one number per axis of labels of shape {shape}; got {translation!r}: correct it, or leave "
            "it out."
        )
    indices = list(np.ndindex(*shape[:-2]))
    ends = [(int(plane.min()), int(plane.max())) for plane in (np.asarray(labels[i]) for i in indices)]
    least, most = min(low for low, _ in ends), max(high for _, high in ends)
    if least < 0 or most >= 2**32:
        raise ValueError(f"A label image can hold labels from 0 to 2**32 - 1; got {least} to {most}.")
    dtype = np.min_scalar_type(most)
    timed = "T" in (axes or "").upper()
    found = _Labels(
        array=labels,
        indices=indices,
        dtype=dtype,
        axes=_ome_axes(axes, len(shape)),
        scale=scale,
        unit=unit,
        translation=translation,
        timed=timed,
    )
    write = _write_zarr if path.suffix.lower() == ".zarr" else _write_tiff
    try:
        with replacing(path, "labels.ome.tif") as whole:
            write(whole, found)
    except OSError as error:
        raise unwritable(path, error) from error
    return path


def check_labels_file(path: Path, shape: Sequence[int]) -> None:
    """Refuse what `write_labels` cannot write, by its name and shape alone.

    Raises
    ------
    ValueError
        If labels have too many axes or no pixels, or the path is a folder of something else or has another ending.
    """
    if not 2 <= len(shape) <= 5 or 0 in shape:
        raise ValueError(
            f"A label image can have (Y, X) and up to three axes before; got shape {tuple(shape)}."
        )
    if path.is_dir() and path.suffix.lower() != ".zarr":
        raise ValueError(f"A label image is written to a file; {path.name} is a folder: give another name.")
    if path.is_dir() and not _is_labels(path):
        raise ValueError(
            f"A label image takes the place of a label image and of nothing else; {path.name} is a folder with other things in "
            "it: give another name, or move them elsewhere."
        )
    if path.suffix.lower() not in LABEL_FILES:
        raise ValueError(
            f"The name of a label image must end in {' or '.join(LABEL_FILES)}; got {path.name}: change its ending."
        )


@dataclass(frozen=True, kw_only=True)
class _Labels:
    """Labels that can be written: their planes in C order, what each axis is, and whether the size of T is a time."""

    array: Any
    indices: Sequence[tuple[int, ...]]
    dtype: np.dtype[Any]
    axes: str
    scale: Sequence[float | None] | None
    unit: str | None
    translation: Sequence[float] | None
    timed: bool

    def plane(self, index: tuple[int, ...]) -> NDArray[Any]:
        pixels = np.asarray(self.array[index])
        if pixels.min() < 0 or pixels.max() > np.iinfo(self.dtype).max:
            raise ValueError("The labels were changed while they were written: write them again.")
        return np.ascontiguousarray(pixels, self.dtype)


def _write_tiff(path: Path, labels: _Labels) -> None:
    metadata: dict[str, Any] = {"axes": labels.axes}
    resolution: dict[str, Any] = {}
    shape = tuple(labels.array.shape)
    if labels.scale is not None:
        # OME knows no other names, and Bio-Formats reads no file with one that it does not know.
        unit = _LENGTHS.get(str(labels.unit))
        for axis, length in zip(labels.axes, labels.scale, strict=True):
            if axis in "XYZ" and length is not None:
                metadata[f"PhysicalSize{axis}"] = float(length)
                metadata[f"PhysicalSize{axis}Unit"] = unit.mark if unit else "pixel"
            elif axis == "T" and length is not None and labels.timed:
                metadata |= {"TimeIncrement": float(length), "TimeIncrementUnit": "s"}
        height, width = labels.scale[-2:]
        if unit and height and width:  # for readers that know nothing of OME
            per_cm = [1e4 / (float(length) * unit.micrometers) for length in (width, height)]
            if all(2**-32 < number < 2**32 for number in per_cm):  # TIFF has no others
                resolution = {"resolution": tuple(per_cm), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(
        path,
        (labels.plane(index) for index in labels.indices),
        shape=shape,
        dtype=labels.dtype,
        ome=True,
        metadata=metadata,
        compression="zlib",
        photometric="minisblack",
        bigtiff=math.prod(shape) * labels.dtype.itemsize > 2**31,
        software=NAME,
        **resolution,
    )


def _write_zarr(path: Path, labels: _Labels) -> None:
    """Write OME-Zarr 0.4, which more programs read than 0.5, with a gzip that all of them know."""
    import zarr

    # The axes have to come as time, channel, space.
    order = sorted(range(len(labels.axes)), key=lambda i: "TCZYX".index(labels.axes[i]))
    shape = [labels.array.shape[i] for i in order]
    sizes = [None] * len(order) if labels.scale is None else labels.scale
    scale = [float(sizes[i] or 1) for i in order]
    unit = _named(labels.unit)
    group = zarr.open_group(path, mode="w", zarr_format=2)
    axes: list[dict[str, str]] = []
    for i in order:
        kind = {"T": "time", "C": "channel"}.get(labels.axes[i], "space")
        # 1 of no unit is what stands for a size that nobody knows.
        own = {"space": unit, "time": "second" if labels.timed else None}.get(kind)
        known = sizes[i] is not None and own not in (None, "pixel")
        axes.append({"name": labels.axes[i].lower(), "type": kind, **({"unit": str(own)} if known else {})})
    steps = [2**n for n in range(max(shape[-2:]).bit_length()) if n == 0 or max(shape[-2:]) >> n >= _COARSEST]
    codec: Any = {"id": "gzip", "level": 5}
    levels, datasets = [], []
    for number, step in enumerate(steps):
        size = [-(-n // step) for n in shape[-2:]]
        levels.append(
            group.create_array(
                str(number),
                shape=(*shape[:-2], *size),
                chunks=(*(1 for _ in shape[:-2]), *(min(n, _CHUNK) for n in size)),
                dtype=labels.dtype,
                compressors=codec,
                chunk_key_encoding={"name": "v2", "separator": "/"},
            )
        )
        lengths = [*scale[:-2], *(length * step for length in scale[-2:])]
        places: list[dict[str, Any]] = [{"type": "scale", "scale": lengths}]
        if labels.translation is not None:  # the same for all levels: their first pixel is the same one
            first = [float(labels.translation[i]) for i in order]
            places.append({"type": "translation", "translation": first})
        datasets.append({"path": str(number), "coordinateTransformations": places})
    for index in labels.indices:
        plane = labels.plane(index)
        place = tuple(index[i] for i in order[:-2])
        for level, step in zip(levels, steps, strict=True):
            level[place] = plane[::step, ::step]  # labels are no numbers: no mean of them
    image: Any = {"version": "0.4", "name": "labels", "axes": axes, "datasets": datasets}
    group.attrs.update({"multiscales": [image], "image-label": {"version": "0.4"}, "software": NAME})


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths name one file, which need not be there."""
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


def written_here(path: Path) -> bool:
    """Whether a TIFF, PNG or zarr was written by this package, so that replacing it loses nobody's data."""
    import imageio.v3 as iio
    import zarr

    try:
        if path.is_dir():
            return _is_labels(path) and zarr.open_group(path, mode="r").attrs.get("software") == NAME
        if path.suffix.lower() == ".png":
            return bool(iio.immeta(path, plugin="pillow").get("Software") == NAME)
        with tifffile.TiffFile(path) as tiff:
            return bool(tiff.pages.first.software == NAME)
    except Exception:  # whatever else it may be
        return False


def _is_labels(path: Path) -> bool:
    """Whether a folder is a label image in OME-Zarr and holds nothing else, which would be lost with it."""
    import zarr

    try:
        attributes: Any = dict(zarr.open_group(path, mode="r").attrs)
        about = attributes.get("ome", attributes)
        levels = (level["path"] for image in about["multiscales"] for level in image["datasets"])
        own = {*(level.split("/")[0] for level in levels), *_OF_GROUPS}
        found = {name for name in os.listdir(path) if not name.startswith(_OF_SYSTEMS)}
        return "image-label" in about and found <= own
    except Exception:  # whatever else it may be
        return False


def _ome_axes(axes: str | None, ndim: int) -> str:
    """Return OME's letters, each once, ending with YX."""
    names = list((axes or "?" * ndim).upper())
    names[-2:] = "YX"
    free = [letter for letter in "ZTC" if letter not in names]
    for i in reversed(range(len(names) - 2)):
        if names[i] not in "ZTC" or names[i] in names[i + 1 :]:
            names[i] = free.pop(0)
    return "".join(names)


@contextmanager
def replacing(path: Path, name: str | None = None) -> Iterator[Path]:
    """Yield where to write, in a new folder beside `path`; what lies there in the end replaces `path`.

    Its name is `name`, for writers that look at it, or else that of `path`. A folder replaces a file or a folder, a file
    only a file. If anything fails, `path` is as it was.
    """
    if path.is_symlink():
        path = path.resolve()  # the link stays, what it points to is replaced
    refuse_protected(path)
    # Where a folder waits; the next one knows it by its name.
    before = path.with_name(f".saving-{path.name}-before")
    if before.exists() and not path.exists():  # the last one was killed meanwhile
        os.rename(before, path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".saving-") as folder:
        whole = Path(folder) / (name or path.name)
        yield whole
        if path.is_file() and whole.is_file():
            with suppress(OSError):  # not every drive has permissions
                shutil.copymode(path, whole)
        if not (whole.is_dir() and path.exists()):
            os.replace(whole, path)
            return
        # No system replaces a folder that is not empty, or a file by a folder. What was there waits outside, or it would be
        # deleted with `folder`.
        if before.exists():  # the last one was killed after it was done
            os.rename(before, Path(folder) / before.name)
        try:
            os.rename(path, before)
            os.replace(whole, path)
        except BaseException:
            if before.exists() and not path.exists():
                os.rename(before, path)
            raise
        with suppress(OSError):  # what was to be saved is; at worst the old folder stays beside it
            os.rename(before, whole)


def refuse_protected(path: Path) -> None:
    """Raise a PermissionError for a file that its owner may not write: whoever replaces it is not asked for that."""
    if path.is_file() and not path.stat().st_mode & stat.S_IWUSR:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def write_whole(path: Path, content: bytes) -> Path:
    """Write a small file whole or not at all.

    Raises
    ------
    OSError
        If it cannot be written; the file that was there before is untouched.
    """
    path = at_home(path)
    try:
        with replacing(path) as whole:
            whole.write_bytes(content)
    except OSError as error:
        raise unwritable(path, error) from error
    return path


# ------------------------------------------------------------------------------------------------ errors

ELSEWHERE = "choose a place that you can write to"
_REMEDIES = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space there or choose another place"
    ),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "make that folder first"),
}


def unwritable(path: Path, error: Exception, denied: str = ELSEWHERE) -> OSError:
    """Return an error that says in one sentence what could not be written, why, and what to do (`denied`: if not permitted)."""
    number = getattr(error, "errno", None)
    remedy = _REMEDIES.get(number or 0, "check the disk or choose another place")
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = denied
    reason = os.strerror(number) if number else brief(error)
    return OSError(f"{path.name} could not be written to {path.parent} ({reason}): {remedy}.")


def of_system(error: Exception) -> str | None:
    """Return what the system says is wrong, without the number that `str` begins with; None for other errors."""
    if not (isinstance(error, OSError) and error.strerror):
        return None
    return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."


def brief(error: BaseException) -> str:
    """Return the first line of an error from elsewhere, to be put into a sentence."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")[:200]
