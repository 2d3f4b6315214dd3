"""File dialogs: which path somebody chooses, with the ending that belongs to it.

Enters: what is asked for. Leaves: a path, or None if somebody thought better of it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QFileDialog

from napari_interformer.label_files import LABEL_FILES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari.layers import Image
    from qtpy.QtWidgets import QWidget

_CLICKS = "Clicks (*.json)"
_ENDING = re.compile(r"(\.ome)?\.[a-z]\w{0,4}$", re.IGNORECASE)  # no date, and no decimal
_TIFF = re.compile(r"(\.ome)?\.tiff?$", re.IGNORECASE)


def model_to_open(parent: QWidget) -> Path | None:
    """Ask for a file of a model."""
    return _chosen(QFileDialog.getOpenFileName(parent, "Model", "", "InterFormer (*.safetensors *.pth)")[0])


def features_folder(parent: QWidget) -> Path | None:
    """Ask for the folder of features."""
    return _chosen(
        QFileDialog.getExistingDirectory(parent, "Folder for features (.zarr): an existing one or a new one")
    )


def labels_to_save(parent: QWidget, image: Image) -> Path | None:
    """Ask where the labels of an image go; FileExistsError as for `clicks_to_save`."""
    kinds = "OME-TIFF (*.tif *.tiff);;OME-Zarr (*.zarr)"
    path, kind = QFileDialog.getSaveFileName(parent, "Save labels", _beside(image, "labels.ome.tif"), kinds)
    if not path:
        return None
    if "*.zarr" in kind:  # chosen by hand; some systems' dialogs leave the ending that was proposed
        return _with_ending(_TIFF.sub("", path), ".zarr", (".zarr",))
    return _with_ending(path, ".ome.tif", LABEL_FILES)


def clicks_to_save(parent: QWidget, image: Image) -> Path | None:
    """Ask where the clicks on an image go.

    Raises
    ------
    FileExistsError
        If there is a file of the name that was typed once it has its ending: the dialog has not asked whether to replace it.
    """
    path, _ = QFileDialog.getSaveFileName(parent, "Save clicks", _beside(image, "clicks.json"), _CLICKS)
    return _with_ending(path, ".json", (".json",)) if path else None


def clicks_to_load(parent: QWidget, image: Image) -> Path | None:
    """Ask for a file of clicks on an image."""
    return _chosen(
        QFileDialog.getOpenFileName(parent, "Load clicks", _beside(image, "clicks.json"), _CLICKS)[0]
    )


def _chosen(path: str) -> Path | None:
    return Path(path) if path else None


def _beside(image: Image, name: str) -> str:
    """Return a path to propose for a file: beside the image, and named after it, where it is a file."""
    if image.source.path is None or not Path(image.source.path).exists():
        return name
    path = Path(image.source.path)
    # Of an image in an OME-Zarr, the outermost folder: a file would be a stranger in it.
    path = next((one for one in reversed((path, *path.parents)) if one.suffix.lower() == ".zarr"), path)
    return str(path.with_name(f"{_ENDING.sub('', path.name)} {name}"))


def _with_ending(path: str, ending: str, known: Sequence[str]) -> Path:
    """Add the ending, which some systems' dialogs do not add, or not to a name with a dot."""
    if Path(path).suffix.lower() in known:
        return Path(path)
    named = Path(f"{path}{ending}")
    if named.exists():
        raise FileExistsError(
            f"{named.name} already exists; choose it in the list to replace it, or give another name."
        )
    return named
