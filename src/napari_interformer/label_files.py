"""Label files out: OME-TIFF and OME-Zarr, with axes and pixel size, whole or not at all.

Enters: a label image, plane by plane. Leaves: a file, in place of none that is not this package's own.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from napari_interformer import NAME
from napari_interformer.files import at_home, labels_at, replacing, unwritable
from napari_interformer.image_files import ome_attributes
from napari_interformer.units import LENGTHS, is_length, named

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_CHUNK, _COARSEST = 512, 512  # sides in pixels: of OME-Zarr's chunks, and the least of its coarser levels
LABEL_FILES = (".tif", ".tiff", ".zarr")
# What the folder of a group of Zarr holds beside its members, and what systems leave in any folder, also by its beginning.
_OF_GROUPS = {".zgroup", ".zattrs", ".zmetadata", "zarr.json"}
_OF_SYSTEMS = (".DS_Store", "Thumbs.db", "desktop.ini", "._", ".nfs")


def write_labels(
    path: str | os.PathLike[str],
    labels: Any,
    *,
    axes: Sequence[str] | None = None,
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
    axes : str or sequence of str, optional
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
    path, axes = at_home(path), None if axes is None else "".join(axes)  # xarray has a tuple
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
        lengths.shape == (len(shape),) and lengths.dtype.kind in "iuf" and all(map(is_length, lengths))
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
    ends = [(int(plane.min()), int(plane.max())) for plane in (labels_at(labels, i) for i in indices)]
    least, most = min(low for low, _ in ends), max(high for _, high in ends)
    if told := beyond(least, most):
        raise ValueError(told)
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


def beyond(least: int, most: int) -> str:
    """Return what to say of labels that no file holds, by the lowest and highest; nothing if all can be saved."""
    if 0 <= least and most < 2**32:
        return ""
    return (
        f"A label image can hold labels from 0 to 2**32 - 1; got {least} to {most}: set pixels below 0 to 0, or number the "
        "objects anew, for example with skimage.segmentation.relabel_sequential."
    )


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
        pixels = labels_at(self.array, index)
        if pixels.min() < 0 or pixels.max() > np.iinfo(self.dtype).max:
            raise ValueError("The labels were changed while they were written: write them again.")
        return np.ascontiguousarray(pixels, self.dtype)


def _write_tiff(path: Path, labels: _Labels) -> None:
    metadata: dict[str, Any] = {"axes": labels.axes}
    resolution: dict[str, Any] = {}
    shape = tuple(labels.array.shape)
    if labels.scale is not None:
        # OME knows no other names, and Bio-Formats reads no file with one that it does not know.
        unit = LENGTHS.get(str(labels.unit))
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
    unit = named(labels.unit)
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
        about = ome_attributes(zarr.open_group(path, mode="r"))
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
