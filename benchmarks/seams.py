"""Do masks show where the tiles meet? Cells are clicked in images encoded as a whole and in tiles, and the masks compared.

`python benchmarks/seams.py` prints the IoU of both masks, for cells that lie across a seam and for those that do not: what
tiles change there is the surroundings that the network sees, not the seam. `--halo` takes other overlaps than the usual one.
"""

from __future__ import annotations

import click
import numpy as np

import napari_interformer as ni
from napari_interformer.geometry import iou
from napari_interformer.options import model_option
from napari_interformer.samples import cells
from napari_interformer.simulate import next_click

SIDE, SMALLEST = 320, 400  # pixels: of an image, and in a cell
OFFSETS = (0, 80, 160, 240, 320)
MARGIN = 3  # pixels that a cell reaches beyond a seam


@click.command()
@click.option("--seeds", default=8, show_default=True, help="Images, each slid across the seams five times.")
@click.option("--halo", type=int, help="Overlap of tiles in pixels; as `encode` has it if left out.")
@model_option
def main(seeds: int, halo: int | None, model: str | None) -> None:
    """Measure, and print a table."""
    network = ni.load_model(model)
    found: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(seeds):
        image, truth = cells((SIDE, 2 * SIDE), seed=seed)
        limits = (float(image.min()), float(np.percentile(image, 99.8)))
        for offset in OFFSETS:
            part, objects = (array[:, offset : offset + SIDE] for array in (image, truth))
            whole = ni.encode(part, network, contrast=limits, tile="whole", device="cpu")
            tiled = ni.encode(part, network, contrast=limits, halo=halo, device="cpu")
            seams = {core.right for core in tiled.tiles} - {SIDE}
            for label in np.unique(objects[objects > 0]):
                target = objects == label
                place = next_click(np.zeros_like(target), target)
                if place is None or target.sum() < max(SMALLEST, (truth == label).sum()):
                    continue
                masks = []
                for features in (whole, tiled):
                    session = ni.Session(features, network)
                    session.click(place[:2])
                    masks.append(session.mask)
                across = any(
                    axis.min() < seam - MARGIN and seam + MARGIN < axis.max()
                    for axis in np.nonzero(target)
                    for seam in seams
                )
                found[across].append(iou(*masks))
    click.echo("| cells | IoU of both masks | 0.98 or more | least |\n| --- | --- | --- | --- |")
    for across, values in found.items():
        kind = "across a seam" if across else "elsewhere"
        share = np.mean(np.array(values) >= 0.98)
        click.echo(f"| {len(values)} {kind} | {np.mean(values):.4f} | {share:.1%} | {min(values):.3f} |")


if __name__ == "__main__":
    main()
