"""For the tests of crops and of training: a small network, quick settings, and images to learn from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import tifffile

from napari_interformer.crops import Batches, Picture
from napari_interformer.model import InterFormerConfig
from napari_interformer.samples import synthetic
from napari_interformer.train import TrainConfig

SMALLEST = InterFormerConfig(
    window=64,
    click_window=64,
    patch_size=8,
    embed_dim=16,
    layers=1,
    heads=2,
    detail=(8, 8, 8),
    channels=(4, 8, 8, 8),
    imsa_heads=(1, 2, 2, 2),
    imsa_mlp_ratios=(1, 1, 1, 1),
    head_width=8,
    inner_radius=2,
    zoom_min_size=32,
)
WINDOW = SMALLEST.click_window
QUICK = TrainConfig(
    preset="smallest",
    steps=4,
    crop_sizes=(64,),
    pixels_per_step=2 * 64**2,
    windows_per_step=8,
    workers=0,
    device="cpu",
    max_clicks=2,
    validation=0.25,
)


def write_folder(root):
    """Write four images and their labels into a folder, and return it."""
    for name in ("images", "labels"):
        (root / name).mkdir()
    for i in range(4):
        image, labels = synthetic(np.random.default_rng(i), (96, 110), "nuclei" if i % 2 else "tissue")
        tifffile.imwrite(root / "images" / f"{i}.tif", image)
        tifffile.imwrite(root / "labels" / f"{i}.tif", labels.astype(np.uint16))
    return root


def pictures(count=3):
    return [Picture(*synthetic(np.random.default_rng(i), (96, 110))) for i in range(count)]


def batch(step=0, **options):
    return Batches(pictures(), [], replace(QUICK, **options), WINDOW, rank=0)[step]
