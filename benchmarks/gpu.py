"""How much of a GPU encoding uses, and whether it gives the CPU's features.

`python benchmarks/gpu.py` prints how far each model's features in half precision are from those of the CPU, and the rate
of encoding a batch beside that of one large matrix product in the same run. `--device cpu` tries the script without a GPU.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import napari_interformer as ni
from napari_interformer.model import PRESETS, InterFormer, normalise
from napari_interformer.train import initialise

if TYPE_CHECKING:
    from collections.abc import Callable

REPEATS = 4


@click.command()
@click.option("--device", default="cuda", show_default=True)
@click.option("--side", default=512, show_default=True, help="Pixels a side of an image.")
@click.option("--batch", default=8, show_default=True, help="Images at a time.")
@click.option(
    "--product", default=8192, show_default=True, help="Side of the matrices of the calibration product."
)
def main(device: str, side: int, batch: int, product: int) -> None:
    """Measure, and print a table."""
    kind = torch.float32 if device == "cpu" else torch.float16
    matrix = torch.randn(product, product, device=device, dtype=kind)
    rate = 2 * product**3 / seconds(lambda: matrix @ matrix, device)
    click.echo(f"matrix product: {rate / 1e12:.3g} TFLOP/s\n")
    click.echo(
        "| model | largest difference / largest value | with transfers | alone | TFLOP/s | of the product |"
    )
    click.echo("| --- | --- | --- | --- | --- | --- |")
    for name in ("bundled", "light", "tiny"):
        torch.manual_seed(0)
        model = ni.load_model() if name == "bundled" else initialise(InterFormer(PRESETS[name])).eval()
        pixels = np.random.default_rng(0).uniform(0, 255, (batch, side, side, 3)).astype(np.float32)
        expected = model.encode_pixels(pixels[:1])
        model.to(device)
        got = model.encode_pixels(pixels[:1])
        error = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(got, expected, strict=True))
        on_device = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)

        def encode(model: InterFormer = model, x: torch.Tensor = on_device) -> Any:
            with torch.inference_mode(), torch.autocast(device, kind, enabled=device != "cpu"):
                return model.encode(normalise(x))

        with FlopCounterMode(display=False) as counter:
            encode()
        whole, alone = seconds(lambda: model.encode_pixels(pixels), device), seconds(encode, device)  # noqa: B023
        done = counter.get_total_flops() / alone
        click.echo(
            f"| {name} | {error:.1e} | {1000 * whole:.1f} ms | {1000 * alone:.1f} ms | {done / 1e12:.3g} | {done / rate:.0%} |"
        )


def seconds(run: Callable[[], Any], device: str) -> float:
    """Return how long a call takes, on average, after one for warming up."""

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    run()
    wait()
    began = time.monotonic()
    for _ in range(REPEATS):
        run()
    wait()
    return (time.monotonic() - began) / REPEATS


if __name__ == "__main__":
    main()
