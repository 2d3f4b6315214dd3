"""Sentences that tell a person at the window what to know, each in one place: before a click, and after long work.

Enters: the state of the window. Leaves: text; the panel shows it, or napari notifies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari.viewer

    from napari_interformer.canvas import Canvas
    from napari_interformer.features import Features
    from napari_interformer.layers import Source
    from napari_interformer.workspace import Workspace

FEW = 4  # planes that may be channels

NOTHING_TO_UNDO = (
    "There is nothing to undo. To continue or remove an object, press Edit object or Delete, and click on it."
)


def before_a_click(
    viewer: napari.viewer.Viewer, canvas: Canvas, workspace: Workspace, short: Callable[[str], str]
) -> str:
    """Say why a click would do nothing, or not what is meant; empty if there is nothing to know.

    Parameters
    ----------
    viewer, canvas, workspace
        Those of the panel.
    short : callable
        Shortens a layer's name to what fits into a line.
    """
    annotator, clicks, labels = workspace.annotator, workspace.clicks, workspace.labels
    if annotator is None or clicks is None or labels is None:
        return ""
    name, layer = short(clicks.source.image.name), labels.layer
    if not canvas.there:
        return "The click layer was removed: press Encode to bring it back."
    if not canvas.screen.flat and not canvas.picking:
        return "Clicks need the 2-D view."
    if _projected(viewer, clicks.source):
        how = clicks.source.image.projection_mode
        return f"{name} is shown as the {how} of several planes, and clicks count on one of them."
    if workspace.outdated:
        return f"The pixels changed since {name} was encoded: press Encode."
    if _several_units(viewer, clicks.source):
        return f"The layers have different units, and napari shows clicks elsewhere: give all of them those of {name}."
    if not layer.visible:
        return f"{short(layer.name)} is hidden."
    if workspace.misplaced:
        return f"{short(layer.name)} no longer lies over {name}: masks appear away from your clicks."
    active = viewer.layers.selection.active
    if active is None or active not in (clicks.layer, clicks.shapes.layer):
        return f"To click, select the layer {clicks.layer.name}."
    if active is clicks.layer and clicks.layer.mode != "add" and not canvas.picking:
        return "To add clicks, press 2."
    session = annotator.session
    if not (session.records or session.unfinished) and _may_be_channels(clicks.source, session.features):
        count = session.features.leading[0]
        return f"{name} is taken as {count} planes; if they are channels, choose Channel axis 0 and encode again."
    return ""


def _projected(viewer: napari.viewer.Viewer, source: Source) -> bool:
    """Whether napari shows several planes as one."""
    dims = viewer.dims
    thick = (dims.thickness[axis] > dims.range[axis].step for axis in dims.not_displayed)
    return str(source.image.projection_mode) != "none" and any(thick)


def _several_units(viewer: napari.viewer.Viewer, source: Source) -> bool:
    """Whether another layer has smaller units, which napari then draws in, but not reads the mouse in."""
    shown = getattr(viewer.layers.extent, "units", None)  # napari 0.6 has none
    return shown is not None and tuple(shown[-2:]) != tuple(source.image.units[-2:])


def _may_be_channels(source: Source, features: Features) -> bool:
    """Whether the planes are so few that they may be channels, which a file need not say."""
    image, leading = source.image, features.leading
    alone = len(source.layers) == 1 and source.axis is None and not image.rgb
    named = str(image.axis_labels[0]).lower() in ("z", "t")
    return alone and len(leading) == 1 and 2 <= leading[0] <= FEW and not named


def found(count: int, *, stopped: bool = False) -> str:
    """Say how many similar objects were found, perhaps before somebody stopped it."""
    if not count and stopped:
        return "Stopped before any similar object was found."
    if not count:
        return "No other object in view looks like the finished ones; if one is missing, click on it."
    were, them = ("s were", "them") if count > 1 else (" was", "it")
    return f"{count} similar object{were} found and finished; Undo takes {them} back."


def hidden(count: int, of: int) -> str:
    """Say that objects which were loaded have no pixel."""
    return (
        f"{count} of {of} loaded object{'s have' if of != 1 else ' has'} no pixel, because others are there: to have all of "
        'them, choose "new layer" under Labels and load the clicks there.'
    )
