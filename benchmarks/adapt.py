"""How many clicks does adapting save on a kind of image? Adapts on 5 and on 20 images, tests on others.

For example `python benchmarks/adapt.py bacteria` for a synthetic family, or, for a kind of dsb2018 and a model that was trained
without it, `python benchmarks/adapt.py 256x320-rgb-light --dsb2018 DSB2018 --model without.safetensors`.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import napari_interformer as ni
from napari_interformer import benchmark, datasets, samples
from napari_interformer.adapting import AdaptConfig


def images_of(kind: str, folder: str | None, count: int, seed: int) -> list[datasets.Sample]:
    """Return images of a kind in a random order."""
    rng = np.random.default_rng(seed)
    if kind in samples.FAMILIES:
        pairs = (samples.synthetic(rng, (256, 256), kind) for _ in range(count))
        return [datasets.Sample(str(i), image, labels, kind) for i, (image, labels) in enumerate(pairs)]
    if folder is None:
        raise SystemExit(f"{kind} is no synthetic family: give --dsb2018 FOLDER.")
    everything = [one for one in datasets.load("dsb2018", folder) if one.kind == kind]
    return [everything[i] for i in rng.permutation(len(everything))]


def main() -> None:
    """Print a table: images adapted on, minutes, IoU@1, NoC@85, NoF@85."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind")
    parser.add_argument("--dsb2018")
    parser.add_argument("--model")
    parser.add_argument("--images", type=int, nargs="+", default=[5, 20], help="to adapt on")
    parser.add_argument("--test", type=int, default=20, help="images to test on")
    parser.add_argument("--objects", type=int, default=5, help="of each test image")
    parser.add_argument("--minutes", type=float, default=AdaptConfig.minutes)
    parser.add_argument("--lr", type=float, default=AdaptConfig.lr)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    model = ni.load_model(asked.model)
    most = max(asked.images)
    chosen = images_of(asked.kind, asked.dsb2018, most + asked.test, asked.seed)
    learnt, tested = chosen[:most], chosen[most : most + asked.test]
    if not tested:
        parser.error(f"{asked.kind} has {len(chosen)} images; adapt on fewer than that with --images.")
    config = benchmark.BenchmarkConfig(objects=asked.objects, seed=asked.seed)
    print("| kind | adapted on | objects seen | minutes | IoU@1 | NoC@85 | NoF@85 | of |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for count in [0, *asked.images]:
        began, network, objects = time.monotonic(), model, 0
        if count:
            part = learnt[:count]
            objects = sum(len(np.unique(one.labels)) - 1 for one in part)
            features = [ni.encode(one.image, model) for one in part]
            network = ni.adapt(
                model,
                features,
                [one.labels for one in part],
                config=AdaptConfig(minutes=asked.minutes, lr=asked.lr, seed=asked.seed),
            )
        minutes = (time.monotonic() - began) / 60
        report = benchmark.measure(tested, benchmark.methods(config, network), config)
        figures = report.results[0].summary(config)
        print(
            f"| {asked.kind} | {count} images | {objects} | {minutes:.1f} | {figures['IoU@1']:.3f} | "
            f"{figures['NoC@85']:.2f} | {figures['NoF@85']:.0f} | {figures['objects']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
