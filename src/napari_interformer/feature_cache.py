"""Features of images that are open, so that somebody who comes back to one need not wait again.

Enters: features, and the layers they were made from (anything that can be a key). Leaves: for planes and a model, the
features to fill: those made before if they are the same, else new ones. No Qt, no napari.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari_interformer.features import Features
    from napari_interformer.image import Planes
    from napari_interformer.model import InterFormer


class FeatureCache:
    """Features by the layers they were made from, those used last at the end."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], Features] = {}

    @property
    def features(self) -> list[Features]:
        """Those that are kept."""
        return list(self._kept.values())

    def keep(self, layers: tuple[Any, ...], features: Features) -> None:
        """Keep features as long as their image is open and there is room, for when somebody comes back to it."""
        # Loads zarr, which opening the panel need not wait for.
        from napari_interformer.features import fitting

        self._kept.pop(layers, None)
        for other in self._kept.values():
            if other.source is not None:
                other.source.release()  # what was read ahead for clicks on it
        self._kept = fitting({**self._kept, layers: features})

    def drop(self, layer: Any) -> None:
        """Keep no features any more that were made from a layer."""
        self._kept = {layers: kept for layers, kept in self._kept.items() if layer not in layers}


def features_for(
    planes: Planes, model: InterFormer, store: str | None, made: Iterable[Features | None]
) -> tuple[Planes, Features]:
    """Return the features to fill: of those made before the ones of the same image, model and contrast, else new ones.

    A store that exists says itself which contrast it was made with.
    """
    from napari_interformer.encoding import room_for
    from napari_interformer.features import Features, Origin
    from napari_interformer.store import is_there, located

    path = None if store is None else located(store)
    before = [features for features in made if features is not None and features.path == path]
    if path is None:
        for found in before:
            wanted = Origin.of(planes, model, core=found.origin.core, halo=found.origin.halo)
            if not found.origin.differences(wanted):
                return planes, found
        return planes, room_for(planes, model)
    if is_there(path):
        opened = next((one for one in before if not one.replaced), None)
        found = opened or Features.open(path, mode="r+")
        found.check(image=planes, model=model)
        planes = found.source = planes.with_contrast(found.contrast)
        return planes, found
    if isinstance(path, Path) and not path.parent.is_dir():
        raise FileNotFoundError(
            f"Features are kept in a new folder within an existing one; got {path}, but {path.parent} does not "
            "exist: check the path."
        )
    return planes, room_for(planes, model, store=path)
