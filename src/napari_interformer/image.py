"""Any image as a sequence of normalised planes.

Enters: NumPy, dask or zarr arrays, multiscale lists, TIFF and PNG paths. Leaves: one plane at a time, (Y, X, 3)
float32 in 0..255, read lazily. Everything before (Y, X) is a *leading* axis: none for an image, (Z,) for a
stack, (T, Z) for a series of stacks.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tifffile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    from napari_interformer.prompts import Box

Plane = tuple[int, ...]
ContrastRule = Literal["auto", "volume", "plane"]
Contrast = ContrastRule | tuple[float, float] | Sequence[tuple[float, float]]

LOW, HIGH = 0.5, 99.8  # percentiles that become 0 and 255
_SAMPLED_PLANES = 16  # for percentiles and fingerprints of stacks
_SAMPLED_PIXELS = 1_000_000  # per plane
_TIFF = (".tif", ".tiff", ".btf", ".lsm", ".stk")


@dataclass(frozen=True)
class Planes:
    """An image or stack, plane by plane. Make one with `Planes.of`.

    Attributes
    ----------
    data : array
        As given, the finest level; only ever indexed, never read as a whole.
    leading : tuple of int
        Lengths of the axes before (Y, X), without the channel axis.
    size : (int, int)
        Y and X in pixels.
    channel_axis : int or None
        Of `data`, not negative.
    channels : tuple of int
        Which channels become red, green and blue; one channel becomes grey.
    contrast : tuple of (float, float), or "plane"
        What becomes 0 and 255, for each of `channels`; "plane" takes percentiles of every plane.
    axes : str
        One letter per axis of `shape`.
    scale : tuple of float, or None
        Pixel size per axis of `shape`, in `unit`.
    unit : str or None
        Such as "micrometer".
    """

    data: Any
    leading: tuple[int, ...]
    size: tuple[int, int]
    channel_axis: int | None
    channels: tuple[int, ...]
    contrast: tuple[tuple[float, float], ...] | Literal["plane"]
    axes: str
    scale: tuple[float, ...] | None = None
    unit: str | None = None
    _hash: list[str] = field(default_factory=list, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        image: ArrayLike | str | Path | Planes | Sequence[Any],
        *,
        channel_axis: int | None = None,
        channels: Sequence[int] | None = None,
        contrast: Contrast = "auto",
        rgb: bool | None = None,
        axes: str | None = None,
    ) -> Planes:
        """Look at an image as planes; nothing but a sample for the contrast is read.

        Parameters
        ----------
        image : array, path, list of arrays or Planes
            (Y, X), (Z, Y, X), (T, Z, Y, X) and so on, with channels last (RGB) or along `channel_axis`. A list of
            shrinking arrays is a multiscale image, of which the first is taken. Planes are returned as they are.
        channel_axis : int, optional
            Axis of the channels, for images that are not RGB.
        channels : sequence of int, optional
            Up to three channels, used as red, green and blue; all if None.
        contrast : "auto", "volume", "plane", (low, high) or one pair per channel
            What becomes 0 and 255. "volume" and "plane" take percentiles 0.5 and 99.8; "auto" takes RGB of uint8 or
            of floats in 0..1 as it is, and anything else as "volume".
        rgb : bool, optional
            Whether the last axis is colour. By default it is if it has 3 or 4 entries, all other axes have more, and
            no `channel_axis` is given.
        axes : str, optional
            One letter per axis of the array; read from the file if None.

        Raises
        ------
        ValueError
            If the array is empty, has fewer than two axes, no real numbers, or axes that make no sense.
        FileNotFoundError, OSError
            If a file is missing or cannot be read.
        """
        if isinstance(image, Planes):
            return image
        scale: tuple[float, ...] | None = None
        unit: str | None = None
        if isinstance(image, str | Path):
            found = read_image(image)
            data, scale, unit = found.data, found.scale, found.unit
            axes = axes or found.axes
        else:
            data = _finest(image)
        shape = tuple(int(n) for n in data.shape)
        _check(data, shape)
        if channel_axis is None and rgb is None:
            letters = "" if axes is None else axes.upper()
            if letters[-1:] == "S":
                rgb = True
            elif "C" in letters:
                channel_axis = letters.index("C")
            else:
                rgb = len(shape) > 2 and shape[-1] in (3, 4) and min(shape[:-1]) > 4
        if rgb:
            channel_axis = len(shape) - 1
            channels = channels or range(min(3, shape[-1]))
        axis = None if channel_axis is None else _axis(channel_axis, len(shape))
        spatial = tuple(n for i, n in enumerate(shape) if i != axis)
        if len(spatial) < 2:
            raise ValueError(
                f"An image takes at least the axes (Y, X) beside the channels; got shape {shape} with channel axis {axis}: "
                "leave channel_axis out, or name another one."
            )
        chosen = tuple(range(1 if axis is None else shape[axis])) if channels is None else tuple(channels)
        count = 1 if axis is None else shape[axis]
        if not 1 <= len(chosen) <= 3 or not all(0 <= c < count for c in chosen):
            raise ValueError(
                f"channels takes one to three of the image's {count} channels; got {list(chosen)}: choose with channels=."
            )
        names = _axis_names(axes, shape, axis, len(spatial))
        if scale is not None and axis is not None and len(scale) == len(shape):
            scale = tuple(s for i, s in enumerate(scale) if i != axis)
        planes = cls(
            data, spatial[:-2], (spatial[-2], spatial[-1]), axis, chosen, "plane", names, scale, unit
        )
        return planes.with_contrast(contrast, keep=bool(rgb))

    def with_contrast(self, contrast: Contrast, *, keep: bool = False) -> Planes:
        """Return the same planes with another contrast; `keep` says that "auto" takes colours as they are."""
        limits: tuple[tuple[float, float], ...] | Literal["plane"]
        if contrast == "auto" and keep and self.dtype == np.uint8:
            limits = ((0.0, 255.0),) * len(self.channels)
        elif contrast == "auto" and keep and self.dtype.kind == "f" and self._sample().max(initial=0) <= 1:
            limits = ((0.0, 1.0),) * len(self.channels)
        elif contrast in ("auto", "volume"):
            sample = self._sample()
            limits = tuple(percentiles(sample[..., i]) for i in range(len(self.channels)))
        elif isinstance(contrast, str):
            if contrast != "plane":
                raise ValueError(
                    f"contrast takes auto, volume, plane, (low, high) or pairs; got {contrast!r}."
                )
            limits = "plane"
        else:
            try:
                pairs = np.broadcast_to(np.asarray(contrast, float), (len(self.channels), 2))
            except ValueError:
                raise ValueError(
                    f"contrast takes one (low, high), or one for each of {len(self.channels)} channels; got {contrast!r}."
                ) from None
            limits = tuple((float(low), float(high)) for low, high in pairs)
        return Planes(
            self.data,
            self.leading,
            self.size,
            self.channel_axis,
            self.channels,
            limits,
            self.axes,
            self.scale,
            self.unit,
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Leading axes, Y and X."""
        return self.leading + self.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels as stored."""
        dtype: np.dtype[Any] = np.dtype(self.data.dtype)
        return dtype

    def __len__(self) -> int:
        """Return the number of planes."""
        return int(np.prod(self.leading))

    def plane_indices(self) -> Iterator[Plane]:
        """Go through the planes in C order."""
        return iter(np.ndindex(*self.leading))

    def raw(self, plane: Plane = (), box: Box | None = None) -> NDArray[Any]:
        """Read the chosen channels of one plane as stored: (Y, X, channels)."""
        if len(plane) != len(self.leading) or not all(
            0 <= i < n for i, n in zip(plane, self.leading, strict=True)
        ):
            raise ValueError(f"plane takes an index into {self.leading}; got {plane}.")
        window: tuple[slice, slice] = (slice(None), slice(None)) if box is None else box.slices
        index: list[Any] = [*plane, *window]
        if self.channel_axis is None:
            return np.asarray(self.data[tuple(index)])[..., None]
        index.insert(self.channel_axis, slice(None))
        pixels = np.asarray(self.data[tuple(index)])
        position = min(self.channel_axis, len(index) - 1) - sum(
            isinstance(i, int | np.integer) for i in index[: self.channel_axis]
        )
        return np.moveaxis(pixels, position, -1)[..., list(self.channels)]

    def read(self, plane: Plane = (), box: Box | None = None) -> NDArray[np.float32]:
        """Read one plane, or a box of it, normalised.

        Returns
        -------
        (Y, X, 3) float32
            RGB in 0..255; one channel is repeated, two leave blue empty; NaN is 0.
        """
        pixels = self.raw(plane, box)
        limits = self.contrast
        if limits == "plane":
            whole = pixels if box is None else self.raw(plane)
            limits = tuple(percentiles(thin(whole[..., i])) for i in range(pixels.shape[2]))
        parts = [stretch(pixels[..., i], *limits[i]) for i in range(pixels.shape[2])]
        if len(parts) == 1:
            parts *= 3
        elif len(parts) == 2:
            parts.append(np.zeros_like(parts[0]))
        return np.stack(parts, axis=-1)

    @property
    def fingerprint(self) -> str:
        """Hash of shape, dtype, channels and a sample of the pixels; changes if the image does."""
        if not self._hash:
            digest = hashlib.sha256(
                repr((self.shape, str(self.dtype), self.channel_axis, self.channels)).encode()
            )
            for plane in self._sampled_planes():
                digest.update(np.ascontiguousarray(thin(self.raw(plane))).tobytes())
            self._hash.append(digest.hexdigest())
        return self._hash[0]

    def _sampled_planes(self) -> list[Plane]:
        chosen = np.unique(np.linspace(0, len(self) - 1, _SAMPLED_PLANES).round().astype(int))
        return [
            tuple(int(i) for i in np.unravel_index(n, self.leading)) if self.leading else () for n in chosen
        ]

    def _sample(self) -> NDArray[Any]:
        """Return pixels (N, channels) from planes all over the stack."""
        return np.concatenate(
            [thin(self.raw(p)).reshape(-1, len(self.channels)) for p in self._sampled_planes()]
        )


def stretch(pixels: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    """Map `low` to 0 and `high` to 255, cutting off what lies beyond; NaN and constant images become 0."""
    out = np.asarray(pixels, np.float32)
    if not high > low:
        return np.zeros_like(out)
    out = np.clip((out - np.float32(low)) * np.float32(255 / (high - low)), 0, 255)
    return np.asarray(np.nan_to_num(out, copy=False, nan=0.0))


def percentiles(pixels: NDArray[Any], low: float = LOW, high: float = HIGH) -> tuple[float, float]:
    """Return two percentiles of the finite pixels; (0, 0) where there is none."""
    values = np.asarray(pixels).ravel()
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 0.0
    first, last = np.percentile(values, [low, high])
    return float(first), float(last)


def thin(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return every n-th row and column of (Y, X, ...), so that about a million pixels remain."""
    step = max(1, round((pixels.shape[0] * pixels.shape[1] / _SAMPLED_PIXELS) ** 0.5))
    return pixels[::step, ::step]


# ------------------------------------------------------------------------------------------------ files


@dataclass(frozen=True)
class ImageFile:
    """What a file holds: an array (lazy for TIFF), its axes, and the pixel size per axis."""

    data: Any
    axes: str | None = None
    scale: tuple[float, ...] | None = None
    unit: str | None = None


def read_image(path: str | Path) -> ImageFile:
    """Open a TIFF (OME, ImageJ, Big), PNG, JPEG or zarr array; TIFF and zarr are read lazily.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If it cannot be read as an image, or is cut short.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"An image path takes an existing file; got {str(path)!r}, which is not there: check it."
        )
    if path.is_dir():
        return _read_zarr(path)
    if path.suffix.lower() in _TIFF:
        return _read_tiff(path)
    import imageio.v3 as iio

    try:
        return ImageFile(iio.imread(path))
    except Exception as error:  # imageio's plugins raise what they like
        raise OSError(
            f"{path.name} cannot be read as an image ({error}); give a TIFF, PNG, JPEG or zarr."
        ) from None


def _read_tiff(path: Path) -> ImageFile:
    try:
        with tifffile.TiffFile(path) as tiff:
            series = tiff.series[0]
            axes, shape = series.axes, series.shape
            scale, unit = _pixel_size(tiff, axes)
            needed = max(
                (
                    o + n
                    for page in series.pages
                    if page
                    for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)
                ),
                default=0,
            )
            size = path.stat().st_size
        if needed > size:
            raise OSError(f"{path.name} is cut short ({size} of at least {needed} bytes); copy it again.")
        if len(shape) == 0 or 0 in shape:
            raise OSError(f"{path.name} holds no pixels; choose another file.")
        try:
            data: Any = tifffile.memmap(path, mode="r")  # uncompressed: the system pages it
        except ValueError:
            import zarr

            opened = zarr.open(tifffile.imread(path, aszarr=True, level=0), mode="r")
            data = opened
        if tuple(data.shape) != tuple(shape):
            data = tifffile.imread(path)
    except (tifffile.TiffFileError, ValueError, KeyError, IndexError, TypeError, EOFError) as error:
        raise OSError(
            f"{path.name} is not a readable TIFF ({error}); save it again or copy it anew."
        ) from None
    return ImageFile(data, axes, scale, unit)


def _pixel_size(tiff: tifffile.TiffFile, axes: str) -> tuple[tuple[float, ...] | None, str | None]:
    """Return the pixel size per axis, and its unit, from OME or ImageJ metadata or the resolution tags."""
    sizes: dict[str, float] = {}
    unit = None
    if tiff.is_ome and tiff.ome_metadata:
        pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]
        pixels = (pixels[0] if isinstance(pixels, list) else pixels)["Pixels"]
        sizes = {a: float(pixels[f"PhysicalSize{a}"]) for a in "XYZ" if f"PhysicalSize{a}" in pixels}
        unit = pixels.get("PhysicalSizeXUnit", "µm") if sizes else None
    elif tiff.is_imagej and tiff.imagej_metadata:
        meta, tags = tiff.imagej_metadata, tiff.pages.first.tags
        unit = meta.get("unit")
        for axis, name in (("X", "XResolution"), ("Y", "YResolution")):
            if unit and name in tags and tags[name].value[0]:
                sizes[axis] = tags[name].value[1] / tags[name].value[0]
        if sizes and "spacing" in meta:
            sizes["Z"] = float(meta["spacing"])
        unit = unit if sizes else None
    if not sizes:
        return None, None
    return tuple(sizes.get(axis, 1.0) for axis in axes), {
        "µm": "micrometer",
        "um": "micrometer",
        "micron": "micrometer",
        "\\u00B5m": "micrometer",
    }.get(str(unit), unit)


def _read_zarr(path: Path) -> ImageFile:
    import zarr

    try:
        node = zarr.open(path, mode="r")
    except Exception as error:  # zarr's stores raise what they like
        raise OSError(
            f"{path.name} is not a readable zarr array ({error}); give an array or an OME-Zarr image."
        ) from None
    if isinstance(node, zarr.Array):
        return ImageFile(node)
    meta: Any = dict(node.attrs)
    multiscales = meta.get("ome", meta).get("multiscales")
    if not multiscales:
        raise OSError(
            f"{path.name} is a zarr group without an image; give the path of an array in it, or an OME-Zarr image."
        )
    first = multiscales[0]
    level = first["datasets"][0]
    names = "".join(
        a["name"][0].upper() if isinstance(a, dict) else str(a)[0].upper() for a in first.get("axes", [])
    )
    scale = next(
        (
            tuple(map(float, t["scale"]))
            for t in level.get("coordinateTransformations", [])
            if t["type"] == "scale"
        ),
        None,
    )
    units = [a.get("unit") for a in first.get("axes", []) if isinstance(a, dict)]
    return ImageFile(node[level["path"]], names or None, scale, units[-1] if units else None)


def write_labels(
    path: str | Path,
    labels: NDArray[np.integer],
    *,
    axes: str | None = None,
    scale: Sequence[float] | None = None,
    unit: str | None = None,
) -> Path:
    """Write a label image as compressed OME-TIFF, whole or not at all.

    Parameters
    ----------
    path : str or Path
        Replaced if it exists.
    labels : (..., Y, X) integer
        Stored in the smallest unsigned type that holds it.
    axes : str, optional
        One letter per axis; from the right, X, Y, Z, T if None.
    scale, unit : optional
        Pixel size per axis of `labels`.

    Raises
    ------
    ValueError
        If a label is negative.
    OSError
        If it cannot be written; the file that was there before is untouched.
    """
    path = Path(path)
    values = np.asarray(labels)
    if values.size and int(values.min()) < 0:
        raise ValueError(f"A label image takes labels of 0 and above; got {int(values.min())}.")
    names = axes or "TZYX"[-values.ndim :]
    dtype = np.min_scalar_type(int(values.max(initial=0)))
    metadata: dict[str, Any] = {"axes": names}
    if scale is not None:
        for axis, size in zip(names, scale, strict=True):
            if axis in "XYZ":
                metadata[f"PhysicalSize{axis}"] = float(size)
                metadata[f"PhysicalSize{axis}Unit"] = {"micrometer": "µm"}.get(unit or "", unit or "pixel")
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".saving-") as folder:
            whole = Path(folder) / "labels.ome.tif"
            tifffile.imwrite(
                whole,
                values.astype(dtype),
                ome=True,
                metadata=metadata,
                compression="zlib",
                photometric="minisblack",
                bigtiff=values.size * dtype.itemsize > 2**31,
            )
            os.replace(whole, path)
    except OSError as error:
        raise OSError(
            f"{path.name} could not be written to {path.parent} ({error.strerror or error}); free some room there or choose "
            "another folder."
        ) from None
    return path


# ------------------------------------------------------------------------------------------------ checks


def _finest(image: Any) -> Any:
    """Return level 0 of a multiscale image, or an array."""
    if hasattr(image, "shape") and hasattr(image, "dtype") and not isinstance(image, list | tuple):
        levels = getattr(image, "_data", None)  # napari's MultiScaleData looks like its finest level
        if levels is not None and isinstance(levels, list | tuple) and hasattr(levels[0], "shape"):
            return levels[0]
        return image
    if isinstance(image, Sequence) and image and all(hasattr(level, "shape") for level in image):
        sizes = [int(np.prod(level.shape)) for level in image]
        if sizes != sorted(sizes, reverse=True) or len(sizes) != len(set(sizes)):
            raise ValueError(
                f"A list of arrays is a multiscale image, finest level first; got shapes {[tuple(a.shape) for a in image]}: "
                "stack planes with numpy.stack or dask.array.stack."
            )
        return image[0]
    with contextlib.suppress(ValueError, TypeError):
        array = np.asarray(image)
        if array.dtype.kind != "O":
            return array
    raise TypeError(f"An image takes an array or a path; got {type(image).__name__}.")


def _check(data: Any, shape: tuple[int, ...]) -> None:
    if len(shape) < 2:
        raise ValueError(f"An image takes at least the axes (Y, X); got shape {shape}.")
    if 0 in shape:
        raise ValueError(f"An image takes at least one pixel; got an empty array of shape {shape}.")
    if np.dtype(data.dtype).kind not in "buif":
        raise ValueError(
            f"An image takes real numbers; got {data.dtype}: convert it, for example with abs()."
        )


def _axis(axis: int, ndim: int) -> int:
    if not -ndim <= axis < ndim:
        raise ValueError(f"channel_axis takes an axis of the image's {ndim}; got {axis}.")
    return axis % ndim


def _axis_names(axes: str | None, shape: tuple[int, ...], channel_axis: int | None, ndim: int) -> str:
    if axes is not None and len(axes) == len(shape):
        letters = "".join(a for i, a in enumerate(axes.upper()) if i != channel_axis)
        # tifffile calls an axis of unknown meaning Q or I; a stack of those is a Z stack to everybody.
        if "Q" not in letters and "I" not in letters and len(set(letters)) == ndim:
            return letters
    elif axes is not None:
        raise ValueError(f"axes takes one letter for each axis of shape {shape}; got {axes!r}.")
    return ("QRSTZYX" if ndim > 4 else "TZYX")[-ndim:]
