"""Images with reference labels, one function per data set: `root -> Iterator[Sample]`."""

from __future__ import annotations

import csv
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from scipy.io import loadmat
from skimage.measure import label

from napari_interformer.files import brief
from napari_interformer.image_files import (
    TIFF_MARKS,
    axes_of_tiff,
    frames_of,
    is_halved,
    own_series,
    read_picture,
    warn_of_shown,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

log = logging.getLogger(__name__)

# Share of the images of each kind that training leaves out, and on which a model is measured.
VALIDATION = 0.2
CLASSES = 3  # nuclei and their borders, for example: rarely more
_IMAGES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and its objects.

    Attributes
    ----------
    name : str
        Name of the image.
    image : (Y, X) or (Y, X, 3)
        As stored.
    labels : (Y, X) int
        0 is background.
    kind : str
        What sort of image; figures are reported by kind.
    ignore : (Y, X) bool, optional
        Pixels that do not count.
    group : str
        Samples of a group show the same thing and are split together; a sample without one is a group of its own.
    """

    name: str
    image: NDArray[np.generic]
    labels: NDArray[np.integer]
    kind: str = ""
    ignore: NDArray[np.bool_] | None = None
    group: str = ""

    @property
    def marked(self) -> NDArray[np.integer]:
        """The labels, with -1 where pixels do not count or have no value."""
        ignore = with_values(self).ignore
        return self.labels if ignore is None else np.where(ignore, np.int32(-1), self.labels)


def with_values(sample: Sample) -> Sample:
    """Ignore pixels that cannot be clicked on, because the image has no value there."""
    if sample.image.dtype.kind != "f":
        return sample
    nothing = np.isnan(sample.image).reshape(*sample.labels.shape, -1).any(axis=2)
    return replace(sample, ignore=nothing if sample.ignore is None else nothing | sample.ignore)


def split(samples: Sequence[Sample], *, fraction: float) -> tuple[list[Sample], list[Sample]]:
    """Split into training and validation samples, kind by kind.

    Each kind gives `round(fraction * count)` of its images, drawn from the names in order and always in the same way, so the
    split depends on names, groups and kinds alone. Samples of one group stay together.
    """
    chosen: set[str] = set()
    # In every run: one that goes on from another must keep out the same images.
    rng = np.random.default_rng(0)
    for kind in sorted({sample.kind for sample in samples}):
        names = sorted({_together(sample) for sample in samples if sample.kind == kind})
        chosen.update(rng.permutation(names)[: round(fraction * len(names))])
    return [s for s in samples if _together(s) not in chosen], [s for s in samples if _together(s) in chosen]


def _together(sample: Sample) -> str:
    return sample.group or sample.name


def folder(root: str | Path) -> Iterator[Sample]:
    """Read `images/` and `labels/` below `root`, TIFF or PNG, matched by name.

    A warning names label images that look like masks, with one number for several objects.

    Raises
    ------
    ValueError
        If an image has no label image, or one of another size, if one of them is a stack, or as `read_labels` does.
    """
    root = Path(root)
    images, labels = _by_name(root / "images"), _by_name(root / "labels")
    if missing := [path.name for name, path in images.items() if name not in labels]:
        raise ValueError(
            f"A data set needs images/ and labels/ with a label image of the same name for each image; in {root} "
            f"{len(images) - len(missing)} of {len(images)} have one: {_some(missing)} {_have(missing)} none."
        )
    masks = []
    for name, path in images.items():
        sample = _checked(Sample(name, read(path), read_labels(labels[name])))
        if _is_mask(sample.labels):
            masks.append(labels[name].name)
        yield sample
    if masks:
        log.warning(
            "%s in %s: pieces that do not touch have the same number, so they count as one object; if they are several, number "
            "them, for example with skimage.measure.label.",
            _some(masks),
            root / "labels",
        )


def dsb2018(root: str | Path) -> Iterator[Sample]:
    """Read stage 1 of the 2018 Data Science Bowl: a `folder` whose `index.csv` names each image's kind.

    Raises
    ------
    ValueError
        As `folder` does, or if the table does not name an image.
    """
    root = Path(root)
    with (root / "index.csv").open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a mark first
        try:
            rows = [row for row in csv.DictReader(file) if row["name"] and row["kind"]]
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(
                f"index.csv is not a readable table ({error}): save it as CSV in UTF-8."
            ) from error
    kinds = {_name(Path(row["name"])): row["kind"] for row in rows}
    if missing := [path.name for name, path in _by_name(root / "images").items() if name not in kinds]:
        raise ValueError(
            f"dsb2018 needs the kind of each image in index.csv; {_some(missing)} {_have(missing)} none: add a row for each, "
            'or read the images as a "folder".'
        )
    for sample in folder(root):
        yield replace(sample, kind=kinds[sample.name])


def grabcut(root: str | Path) -> Iterator[Sample]:
    """Read GrabCut (50 images): `data_GT/` and `boundary_GT/`, where 128 is the unlabelled band."""
    root = Path(root)
    masks = _by_name(root / "boundary_GT")
    for name, path in _by_name(root / "data_GT").items():
        band = _grey(read(masks[name]))
        yield _checked(Sample(name, read(path), (band == 255).astype(np.int32), ignore=band == 128))


def berkeley(root: str | Path) -> Iterator[Sample]:
    """Read Berkeley (100 objects on 96 images): `images/NAME.jpg` and `masks/NAME#N.png`, or images named as the masks are."""
    root = Path(root)
    images = _by_name(root / "images")
    for name, path in _by_name(root / "masks").items():
        photograph = name.partition("#")[0]
        image = images[name if name in images else photograph]
        mask = (_grey(read(path)) > 0).astype(np.int32)
        yield _checked(Sample(name, read(image), mask, group=photograph))


def davis(root: str | Path) -> Iterator[Sample]:
    """Read the 345 frames of DAVIS: `img/NAME.jpg` and `gt/NAME.png` or `NAME#N.png`, all of whose objects count as one."""
    root = Path(root)
    masks: dict[str, list[Path]] = {}
    for name, path in _by_name(root / "gt").items():
        masks.setdefault(name.partition("#")[0], []).append(path)
    for name, path in _by_name(root / "img").items():
        image = read(path)
        labels = np.zeros(image.shape[:2], np.int32)
        for mask in map(read, masks[name]):
            seen = (mask.max(axis=2) if mask.ndim == 3 else mask) > 0
            labels = _checked(Sample(name, image, seen.astype(np.int32))).labels | labels
        yield Sample(name, image, labels)


def sbd(root: str | Path) -> Iterator[Sample]:
    """Read SBD's validation set (6671 objects): `val.txt`, `img/NAME.jpg`, `inst/NAME.mat`."""
    root = Path(root)
    images = _by_name(root / "img")
    for name in (root / "val.txt").read_text(encoding="utf-8").split():
        path = root / "inst" / f"{name}.mat"
        try:
            instances = loadmat(path)["GTinst"]["Segmentation"][0, 0]
        except (FileNotFoundError, KeyError):
            raise
        except Exception as error:  # a damaged file breaks SciPy in many places
            raise OSError(
                f"{path.name} is not a readable file of SBD ({brief(error)}): copy it again."
            ) from error
        yield _checked(Sample(name, read(images[name]), _labels(instances)))


DATASETS: dict[str, Callable[[str | Path], Iterator[Sample]]] = {
    "folder": folder,
    "dsb2018": dsb2018,
    "grabcut": grabcut,
    "berkeley": berkeley,
    "davis": davis,
    "sbd": sbd,
}


def load(name: str, root: str | Path) -> Iterator[Sample]:
    """Read a data set by the name of its layout.

    Raises
    ------
    ValueError
        If there is no such layout, or the folder does not have it.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset takes one of {', '.join(DATASETS)}; got {name!r}.")
    try:
        yield from DATASETS[name](root)
    except (FileNotFoundError, KeyError) as error:
        raise ValueError(
            f"{root} does not have the layout of {name!r}: {_missing(error, Path(root))} is missing. {_layout(name)}"
        ) from None


def _missing(error: Exception, root: Path) -> str:
    """Name what was looked for in the data set's folder."""
    what = getattr(error, "filename", None) or error.args[0]
    return Path(what).relative_to(root).as_posix() if Path(what).is_relative_to(root) else str(what)


def _layout(name: str) -> str:
    """Say what a layout needs, in the words of its function."""
    told = (DATASETS[name].__doc__ or "").split("\n\n")[0].replace("`", "").removeprefix("Read ")
    return f"It needs {' '.join(told.split())}"


def read(path: Path) -> NDArray[Any]:
    """Read one TIFF, PNG, JPEG or BMP: (Y, X) or (Y, X, 3), without transparency.

    Raises
    ------
    ValueError
        If it is a stack, or has more channels than colours.
    FileNotFoundError, OSError
        If it does not exist, or cannot be read as an image.
    """
    return _plane(path, *_pixels(path))


def read_labels(path: Path) -> NDArray[np.integer]:
    """Read a label image: (Y, X); with a palette, its indices and not its colours.

    Raises
    ------
    ValueError, FileNotFoundError, OSError
        As `read` does, and if it has colours instead of numbers, negative numbers or fractions, or is a JPEG.
    """
    if path.suffix.lower() in (".jpg", ".jpeg"):
        raise ValueError(
            f"A label image needs exact numbers, which JPEG changes; got {path}: save the labels as TIFF or PNG."
        )
    if path.is_file() and is_halved(path):
        raise ValueError(
            f"A label image needs one number per pixel; {path} has 16 bits with colour or alpha, of which half would be lost: "
            "save it as grayscale."
        )
    pixels = _plane(path, *_pixels(path, numbers=True))
    if pixels.ndim == 3 and (pixels != pixels[..., :1]).any():
        raise ValueError(
            f"A label image needs one number per pixel; {path} has colours: save it as grayscale, TIFF or PNG."
        )
    labels = _labels(pixels)
    if (wrong := (labels != _grey(pixels)) | (labels < 0)).any():  # NaN is different, too
        raise ValueError(
            f"A label image holds whole numbers from 0, the background; {path} has {_grey(pixels)[wrong][0]}: number the "
            "objects, for example with skimage.measure.label."
        )
    return labels


def _pixels(path: Path, *, numbers: bool = False) -> tuple[NDArray[Any], str]:
    """Return what a file holds, and a letter for each axis; with a palette, its colours, or its indices if `numbers`.

    Of a TIFF with a palette always the indices, with a warning.
    """
    try:
        with path.open("rb") as opened:
            mark = opened.read(4)
        if mark in TIFF_MARKS:
            with tifffile.TiffFile(path) as file:
                # Frames that were written one by one are a stack.
                series = frames_of(file) or own_series(file)[0]
                if not numbers:
                    warn_of_shown(path.name, series)
                # Two or four of grey are channels, none of which may be left out; three are taken for colours.
                of_grey = series.keyframe.samplesperpixel in (2, 4)
                return series.asarray(), axes_of_tiff(series) if of_grey else series.axes
        pixels = read_picture(path, numbers=numbers)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file breaks readers in many places
        raise OSError(f"{path} cannot be read as an image ({brief(error)}): copy it again.") from error
    return pixels, "YXS" if pixels.ndim == 3 else "YX"


def _plane(path: Path, pixels: NDArray[Any], axes: str) -> NDArray[Any]:
    """Return (Y, X) or (Y, X, 3); refuse whatever is more than a plane."""
    if pixels.dtype.kind not in "buif":
        raise ValueError(
            f"A data set needs real numbers; {path} has {pixels.dtype}: convert it, for example with numpy.abs."
        )
    single = tuple(i for i, letter in enumerate(axes) if letter not in "YX" and pixels.shape[i] == 1)
    plane = pixels.squeeze(single)
    left = [letter for i, letter in enumerate(axes) if i not in single]
    if "S" in left:  # colours
        plane = np.moveaxis(plane, left.index("S"), -1)
    if sorted(left) not in (["X", "Y"], ["S", "X", "Y"]) or (plane.ndim == 3 and plane.shape[2] > 4):
        raise ValueError(
            f"A data set needs images (Y, X) or (Y, X, 3); {path} has {' x '.join(map(str, pixels.shape))} ({axes}): save each "
            "plane as a separate image, with a label image of the same name, and up to three channels as RGB."
        )
    if plane.ndim == 3:  # the fourth of RGBA, and the second of grey with alpha, are no pixels
        return plane[..., :3] if plane.shape[2] > 2 else plane[..., 0]
    return plane


def _by_name(directory: Path) -> dict[str, Path]:
    # macOS leaves ._NAME.tif beside NAME.tif on disks that are not its own.
    paths = sorted(p for p in directory.glob("*") if p.suffix.lower() in _IMAGES and p.name[0] != ".")
    if not paths and directory.is_dir():
        raise ValueError(
            f"A data set needs images as TIFF or PNG (photographs also as JPEG or BMP); {directory} holds none: save them "
            "there in one of these formats."
        )
    if not paths:
        raise FileNotFoundError(directory)
    named: dict[str, Path] = {}
    for path in paths:
        name = _name(path)
        if name in named:
            raise ValueError(
                f"A data set needs one file per name; {directory} holds {named[name].name} and {path.name}: remove one."
            )
        named[name] = path
    return named


def _name(path: Path) -> str:
    """Return an image's name, by which it is matched: without its ending, if it has one."""
    stem = path.stem if path.suffix.lower() in _IMAGES else path.name
    # OME-TIFF has an ending of two parts.
    return stem[: -len(".ome")] if stem.lower().endswith(".ome") else stem


def _have(names: Sequence[str]) -> str:
    return "has" if len(names) == 1 else "have"


def _some(names: Sequence[str]) -> str:
    """Name the first three."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _is_mask(labels: NDArray[np.integer]) -> bool:
    """Whether an image has only one number, in several pieces, or few in many: perhaps a mask, or a number for each class."""
    numbers = int(np.count_nonzero(np.unique(labels)))
    if not 0 < numbers <= CLASSES:
        return False
    pieces = int(label(labels, background=0, connectivity=2).max())
    return pieces > (1 if numbers == 1 else CLASSES * numbers)


def _labels(pixels: NDArray[Any]) -> NDArray[np.integer]:
    numbers = _grey(pixels)
    dtype = np.int64 if numbers.max() > np.iinfo(np.int32).max else np.int32
    with np.errstate(invalid="ignore"):  # NaN, which its caller refuses
        return np.asarray(numbers).astype(dtype)


def _grey(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels[..., 0] if pixels.ndim == 3 else pixels


def _checked(sample: Sample) -> Sample:
    if sample.image.shape[:2] != sample.labels.shape:
        raise ValueError(
            f"A label image must have the size of its image; {sample.name} has {sample.labels.shape}, its image "
            f"{sample.image.shape[:2]}."
        )
    return sample
