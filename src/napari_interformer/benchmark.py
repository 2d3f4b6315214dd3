"""How many clicks does it take? The usual protocol, for our model and for standard methods.

A simulated user clicks at the deepest point of the deeper error until the mask is good or 20 clicks are used up
(Huang et al., ICCV 2023, section 4.2; before them Sofiiuk et al., 2022, whose rule for errors that are equally deep,
"outside of the object", is used here, too). Every method sees the same objects and gets its own clicks from its own errors.
With `BenchmarkConfig.box`, a box drawn around the object replaces the first click.

NoF counts objects that never reach a threshold. Others also count those that reach it only with the last click.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude
from skimage.segmentation import find_boundaries, random_walker, watershed

from napari_interformer.datasets import VALIDATION, load, split, with_values
from napari_interformer.encoding import encode
from napari_interformer.files import write_whole
from napari_interformer.geometry import Box, iou
from napari_interformer.image import Planes
from napari_interformer.prompts import BoxPrompt
from napari_interformer.session import Session
from napari_interformer.settings import SHARE, Allowed, at_least, check_settings, one_of
from napari_interformer.simulate import next_click

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from napari_interformer.datasets import Sample
    from napari_interformer.model import InterFormer


REPORT = ("benchmark.json", "benchmark.md", "iou-by-clicks.png", "worst.png")  # its files
TOLD_AFTER = (1, 3, 5, 10)  # clicks, for the mean IoU in the report; the command's help names them, too
WORST = 24  # objects on the contact sheet
SPECK = 16  # pixels; in labels of microscopy, what is smaller is often none
FARTHEST = 2.5  # sigma; nobody's box is off by more


@dataclass(frozen=True)
class BenchmarkConfig:
    """What is measured.

    Attributes
    ----------
    dataset : str
        Layout of the folder: folder, dsb2018, grabcut, berkeley, davis or sbd.
    split : str
        "validation" or "training" (split as `train` does), or "all".
    validation : float
        Share of the images of each kind in the validation split.
    images : int
        Largest number of images, drawn with the seed; 0 for all.
    objects : int
        Largest number of objects per image, drawn with the seed; 0 for all.
    smallest : int
        Objects of fewer pixels are left out. 0 means 16 for a folder and for dsb2018, and no limit for the data sets that are
        published for clicks, whose figures are over all objects.
    max_clicks : int
        Clicks after which the simulated user gives up.
    thresholds : tuple of float
        IoU values at which an object counts as done.
    until : float
        IoU at which the clicks on an object end; IoU@k then continues with that value. 0 for the highest threshold. With 1,
        clicks after a good mask are measured, too.
    baselines : bool
        Also run seeded watershed and random walker (scikit-image). Their background begins 48 pixels (random walker: 32) from
        the positive clicks, so on objects more than twice as wide they start with wrong seeds.
    box : float or None
        Start objects with a box in place of the first click; it counts as a click. If not given, they start with a click.
        Each side is off by a normal distribution whose sigma is this share of the object's extent: with 0.04, by about 2
        pixels for an object 50 pixels across; with 0, the box is exact. The baselines take no boxes and get clicks only.
    seed : int
        Random seed for the draws.
    """

    dataset: str = "folder"
    split: str = "all"
    validation: float = VALIDATION
    images: int = 0
    objects: int = 0
    smallest: int = 0
    max_clicks: int = 20
    thresholds: tuple[float, ...] = (0.80, 0.85, 0.90)
    until: float = 0.0
    baselines: bool = False
    box: float | None = None
    seed: int = 0

    allowed: ClassVar = {
        "split": one_of(("all", "training", "validation")),
        "images": at_least(0),
        "objects": at_least(0),
        "smallest": at_least(0),
        "max_clicks": at_least(1),
        "thresholds": Allowed(
            "IoU values above 0 and up to 1", lambda values: values and all(0 < one <= 1 for one in values)
        ),
        "until": SHARE,
        "box": Allowed(
            "a share of the object's extent, from 0 (exact) to 1",
            lambda share: share is None or 0 <= share <= 1,
        ),
        "validation": SHARE,
        "seed": at_least(0),
    }

    def __post_init__(self) -> None:
        """Refuse settings that cannot be measured, before images are read."""
        check_settings(self, self.allowed)
        if 0 < self.until < max(self.thresholds):
            raise ValueError(
                f"until takes an IoU of at least the highest threshold, {max(self.thresholds)}; got {self.until}: objects "
                "whose clicks end earlier would count as failures."
            )

    @property
    def least_pixels(self) -> int:
        """Number of pixels of the smallest object that is clicked on."""
        return self.smallest or (SPECK if self.dataset in ("folder", "dsb2018") else 1)


Clicked = tuple[int, int, bool]  # y, x, positive


class Clicker(Protocol):
    """A way to segment one image by clicks."""

    def begin(self) -> None:
        """Start a new object."""

    def click(self, y: int, x: int, positive: bool) -> NDArray[np.bool_]:
        """Answer a click with the object's mask (Y, X)."""


@runtime_checkable
class BoxClicker(Clicker, Protocol):
    """One that can also start with a box."""

    def box(self, box: Box) -> NDArray[np.bool_]:
        """Answer a box drawn around the object with the object's mask (Y, X)."""


# Image to clicker; whatever depends on the image alone is done here, and timed separately.
Method = Callable[["NDArray[Any]"], Clicker]


@dataclass(frozen=True)
class Trial:
    """One object with one method.

    `ious` has one value per click given, and one for the box before them if it started with one.
    """

    image: str
    kind: str
    label: int
    ious: tuple[float, ...]
    clicks: tuple[Clicked, ...]
    seconds: float
    box: Box | None = None

    @property
    def given(self) -> tuple[Box | Clicked, ...]:
        """All that the method was given, in order."""
        return self.clicks if self.box is None else (self.box, *self.clicks)

    def iou_after(self, clicks: int) -> float:
        """Return the IoU after that many clicks; if fewer were needed, after the last one."""
        return self.ious[min(clicks, len(self.ious)) - 1]

    def clicks_to(self, threshold: float, most: int) -> int | None:
        """Return the number of clicks until `threshold`, or None if `most` are not enough."""
        return next((n for n, value in enumerate(self.ious[:most], 1) if value >= threshold), None)


@dataclass
class Result:
    """The results of a method on all objects."""

    method: str
    trials: list[Trial] = field(default_factory=list)
    encoded: list[tuple[str, float, float]] = field(default_factory=list)  # kind, seconds, megapixels

    @property
    def title(self) -> str:
        """The method, and how its objects start."""
        return f"{self.method}, from a box" if any(trial.box for trial in self.trials) else self.method

    def summary(self, config: BenchmarkConfig, kind: str | None = None) -> dict[str, float]:
        """Return the figures over all objects, or those of one kind of image.

        ms/click is the whole time after a click, including that of encoding the window of a small or large object at another
        magnification, at its first click. s/MP is the time for encoding the image as stored, ahead of the clicks.
        """
        trials = [t for t in self.trials if kind is None or t.kind == kind]
        figures: dict[str, float] = {"objects": len(trials)}
        for clicks in (clicks for clicks in TOLD_AFTER if clicks <= config.max_clicks):
            figures[f"IoU@{clicks}"] = float(np.mean([t.iou_after(clicks) for t in trials]))
        for threshold in config.thresholds:
            counts = [t.clicks_to(threshold, config.max_clicks) for t in trials]
            percent = f"{100 * threshold:g}"
            figures[f"NoC@{percent}"] = float(
                np.mean([config.max_clicks if n is None else n for n in counts])
            )
            figures[f"NoF@{percent}"] = sum(n is None for n in counts)
        figures["ms/click"] = 1000 * sum(t.seconds for t in trials) / sum(len(t.ious) for t in trials)
        spent = [(seconds, size) for of, seconds, size in self.encoded if kind is None or of == kind]
        figures["s/MP"] = sum(seconds for seconds, _ in spent) / sum(size for _, size in spent)
        return figures

    def curve(self, most: int) -> list[float]:
        """Return the mean IoU after 1 .. `most` clicks."""
        return [float(np.mean([t.iou_after(n) for t in self.trials])) for n in range(1, most + 1)]


# ----------------------------------------------------------------------------------------------- methods


class InterFormerClicker:
    """Our model, through the session that the window uses."""

    def __init__(self, image: NDArray[Any], model: InterFormer, device: str = "cpu") -> None:
        self.session = Session(encode(image, model, device=device), model)

    def begin(self) -> None:
        """Start a new object."""
        self.session.clear()

    def click(self, y: int, x: int, positive: bool) -> NDArray[np.bool_]:
        """Answer a click."""
        return self.session.click((y, x), positive)

    def box(self, box: Box) -> NDArray[np.bool_]:
        """Answer a box."""
        return self.session.box(*BoxPrompt((), box).corners)


class _Seeded:
    """What the two baselines have in common: seeds at the clicks, and background around a window that holds them.

    Without the window's border as background, a single positive click would flood the image. Where the window
    ends at the image's own border there is no such seed: objects are cut there, and background is not implied.
    """

    # Chosen by NoC@85 on 120 objects of 30 training images of dsb2018, never on validation images. For the watershed:
    # this border rule 7.9, all four sides 9.2; then single pixels, which can follow an edge, 6.5, dots of radius 1 for
    # every click 7.9; then sigma 0.5 6.2, and a wide dot for the first click, which falls deep inside, 6.0. Otsu's other
    # class as background gained nothing. For the walker: beta 300, 1000, 3000 5.0, 4.7, 4.8; margin 32, 48 4.6, 4.7.
    margin = 48
    sigma = 0.5
    first_radius = 2

    def __init__(self, image: NDArray[Any]) -> None:
        grey = Planes.of(image).read().mean(axis=2)
        self.size = (grey.shape[0], grey.shape[1])
        self.grey = gaussian_filter(grey, self.sigma)
        self.edges = gaussian_gradient_magnitude(grey, self.sigma)
        self.clicks: list[Clicked] = []

    def begin(self) -> None:
        """Start a new object."""
        self.clicks = []

    def click(self, y: int, x: int, positive: bool) -> NDArray[np.bool_]:
        """Answer a click."""
        self.clicks.append((y, x, positive))
        box, seeds = self.seeds()
        mask = np.zeros(self.size, bool)
        if (seeds == 1).any():
            mask[box.slices] = self.fill(box, seeds) == 1
        return mask

    def seeds(self) -> tuple[Box, NDArray[np.int32]]:
        """Return the window and its seeds: 1 object, 2 background, 0 to be decided."""
        rows, columns, _ = zip(*([c for c in self.clicks if c[2]] or self.clicks), strict=True)
        m = self.margin
        wish = Box(min(columns) - m, min(rows) - m, max(columns) + m + 1, max(rows) + m + 1)
        box = wish.intersect(Box.of(self.size))
        seeds = np.zeros(box.shape, np.int32)
        for cut, side in (
            (box.top > wish.top, np.s_[0]),
            (box.bottom < wish.bottom, np.s_[-1]),
            (box.left > wish.left, np.s_[:, 0]),
            (box.right < wish.right, np.s_[:, -1]),
        ):
            # With nothing but image around, the image's border has to do.
            if not cut or box == Box.of(self.size):
                seeds[side] = 2
        for n, (y, x, positive) in enumerate(self.clicks):
            r = self.first_radius if n == 0 else 0
            dot = Box(x - r, y - r, x + r + 1, y + r + 1).intersect(box)
            if not dot.empty:
                seeds[dot.shift(-box.top, -box.left).slices] = 1 if positive else 2
        return box, seeds

    def fill(self, box: Box, seeds: NDArray[np.int32]) -> NDArray[np.integer]:
        """Give every pixel of the window one of the seeds' labels."""
        raise NotImplementedError


class WatershedClicker(_Seeded):
    """Seeded watershed on the gradient magnitude (scikit-image)."""

    def fill(self, box: Box, seeds: NDArray[np.int32]) -> NDArray[np.integer]:
        """Flood from the seeds."""
        return np.asarray(watershed(self.edges[box.slices], seeds))


class RandomWalkerClicker(_Seeded):
    """Random walker from the seeds (scikit-image)."""

    margin = 32
    beta = 1000.0

    def fill(self, box: Box, seeds: NDArray[np.int32]) -> NDArray[np.integer]:
        """Give each pixel the label of the seed that a random walk from it is likeliest to meet first."""
        part = self.grey[box.slices]
        if seeds.min() > 0 or not (seeds == 2).any() or part.min() == part.max():
            return seeds
        # Solved directly: at this beta the iterative solvers stop short of the answer.
        return np.asarray(random_walker(part / 255, seeds, beta=self.beta, mode="bf", prob_tol=1))


def methods(config: BenchmarkConfig, model: InterFormer, device: str = "cpu") -> dict[str, Method]:
    """Return the methods to run, by name."""
    chosen: dict[str, Method] = {"InterFormer": lambda image: InterFormerClicker(image, model, device)}
    if config.baselines:
        chosen |= {"seeded watershed": WatershedClicker, "random walker": RandomWalkerClicker}
    return chosen


# ---------------------------------------------------------------------------------------------- protocol


def run(
    folder: str | Path,
    model: InterFormer,
    config: BenchmarkConfig | None = None,
    *,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Benchmark a model on a folder, in the layout `config.dataset`.

    `progress` is called with (images done, images).
    """
    config = config or BenchmarkConfig()
    chosen = choose(list(load(config.dataset, folder)), config)
    return measure(chosen, methods(config, model, device), config, progress=progress)


def choose(everything: Sequence[Sample], config: BenchmarkConfig) -> list[Sample]:
    """Return the samples of a split, or some of them."""
    chosen = list(everything)
    if config.split != "all":
        training, validation = split(everything, fraction=config.validation)
        chosen = training if config.split == "training" else validation
    if config.images and config.images < len(chosen):
        rng = np.random.default_rng(config.seed)
        chosen = [chosen[i] for i in sorted(rng.choice(len(chosen), config.images, replace=False))]
    if not chosen:
        raise ValueError(f"The {config.split} split holds no images: use more images, or split=all.")
    return chosen


def measure(
    samples: Iterable[Sample],
    methods: dict[str, Method],
    config: BenchmarkConfig,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Click on every object of every sample with every method; pixels without a value (NaN) do not count."""
    samples = [with_values(sample) for sample in samples]
    results = {name: Result(name) for name in methods}
    for done, sample in enumerate(samples, 1):
        labels = objects_of(sample, config)
        for name, method in methods.items():
            began = time.perf_counter()
            clicker = method(sample.image)
            spent = time.perf_counter() - began
            results[name].encoded.append((sample.kind, spent, sample.labels.size / 1e6))
            for label in labels:
                results[name].trials.append(attempt(clicker, sample, label, config))
        if progress is not None:
            progress(done, len(samples))
    if not any(result.trials for result in results.values()):
        raise ValueError(
            f"The benchmark needs images with objects of at least {config.least_pixels} pixels; got none."
        )
    return Report(config, list(results.values()), samples, methods)


def objects_of(sample: Sample, config: BenchmarkConfig) -> list[int]:
    """Return the labels of a sample to click on."""
    marked = sample.marked
    labels, areas = np.unique(marked[marked > 0], return_counts=True)
    labels = labels[areas >= config.least_pixels]
    if config.objects and config.objects < len(labels):
        # Seeded by the image as well: a subset of the images has the same objects.
        rng = np.random.default_rng([config.seed, *sample.name.encode()])
        labels = np.sort(rng.choice(labels, config.objects, replace=False))
    return [int(label) for label in labels]


def attempt(clicker: Clicker, sample: Sample, label: int, config: BenchmarkConfig) -> Trial:
    """Click on one object until it is done."""
    target = sample.labels == label
    mask = np.zeros_like(target)
    box = drawn_box(sample, label, config) if isinstance(clicker, BoxClicker) else None
    ious: list[float] = []
    clicks: list[Clicked] = []
    seconds = 0.0
    enough = config.until or max(config.thresholds)
    clicker.begin()
    while len(ious) < config.max_clicks and (not ious or ious[-1] < enough):
        given = box if box is not None and not ious else next_click(mask, target, ignore=sample.ignore)
        if given is None:
            break
        began = time.perf_counter()
        mask = answer(clicker, given)
        seconds += time.perf_counter() - began
        if not isinstance(given, Box):
            clicks.append(given)
        ious.append(iou(mask, target, sample.ignore))
    return Trial(sample.name, sample.kind, label, tuple(ious), tuple(clicks), seconds, box)


def answer(clicker: Clicker, given: Box | Clicked) -> NDArray[np.bool_]:
    """Return a clicker's mask after a box or a click."""
    if not isinstance(given, Box):
        return clicker.click(*given)
    assert isinstance(clicker, BoxClicker)
    return clicker.box(given)


def drawn_box(sample: Sample, label: int, config: BenchmarkConfig) -> Box | None:
    """Return a box as a person draws it around an object, the same in each run; None if the object starts with a click.

    It does so, too, if the middle of the box has no value, because a session refuses such a box.
    """
    if config.box is None:
        return None
    box, whole = Box.around(sample.marked == label), Box.of(sample.labels.shape)
    rng = np.random.default_rng([config.seed, *sample.name.encode(), label])
    off = config.box * np.clip(rng.standard_normal(4), -FARTHEST, FARTHEST)
    sides = np.rint(box + off * ([box.width, box.height] * 2)).astype(int)
    # Something of the object's own box is left to hold.
    first = np.clip(sides[:2], 0, np.array(box[2:]) - 1)
    last = np.clip(sides[2:], np.maximum(first, box[:2]) + 1, whole[2:])
    drawn = Box(*map(int, (*first, *last)))
    middle = BoxPrompt((), drawn).middle
    return None if np.isnan(sample.image[middle.y, middle.x]).any() else drawn


# ------------------------------------------------------------------------------------------------ report


@dataclass(frozen=True)
class Report:
    """All results, and the samples and methods by which they were made."""

    config: BenchmarkConfig
    results: list[Result]
    samples: list[Sample]
    methods: dict[str, Method]

    @property
    def kinds(self) -> list[str]:
        """The kinds of images, if there are several."""
        kinds = sorted({trial.kind for trial in self.results[0].trials})
        return kinds if len(kinds) > 1 else []

    def table(self) -> str:
        """Return the figures as a Markdown table, all images first, then kind by kind."""
        rows = []
        for kind in (None, *self.kinds):
            for result in self.results:
                figures = result.summary(self.config, kind)
                cells = [
                    kind or "all",
                    result.title,
                    *(_shown(name, value) for name, value in figures.items()),
                ]
                rows.append(cells)
        head = ["images", "method", *self.results[0].summary(self.config)]
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        lines = [
            "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
            for row in [head, *rows]
        ]
        lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
        return "\n".join(lines)

    def save(self, folder: str | Path) -> list[Path]:
        """Write `benchmark.json`, `benchmark.md`, `iou-by-clicks.png` and `worst.png`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "config": asdict(replace(self.config, smallest=self.config.least_pixels)),
            "images": len(self.samples),
            "results": [
                {
                    "method": r.method,
                    "all": r.summary(self.config),
                    "kinds": {kind: r.summary(self.config, kind) for kind in self.kinds},
                    "iou_by_clicks": r.curve(self.config.max_clicks),
                    "objects": [asdict(trial) for trial in r.trials],
                }
                for r in self.results
            ],
        }
        figures, table, plot, sheet = (folder / name for name in REPORT)
        write_whole(figures, json.dumps(content, indent=1).encode())
        write_whole(table, f"{self.table()}\n".encode())
        self.plot(plot)
        self.contact_sheet(sheet)
        return [figures, table, plot, sheet]

    def plot(self, path: str | Path) -> None:
        """Draw the mean IoU against the number of clicks."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        for result in self.results:
            axes.plot(
                range(1, self.config.max_clicks + 1),
                result.curve(self.config.max_clicks),
                label=result.title,
            )
        for threshold in self.config.thresholds:
            axes.axhline(threshold, color="0.8", linewidth=0.8, zorder=0)
        lowest = min(min(result.curve(1)) for result in self.results)
        axes.set(
            xlabel="clicks",
            ylabel="mean IoU",
            ylim=(min(lowest, 0.5), 1),
            xlim=(1, max(2, self.config.max_clicks)),
        )
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_title(f"{len(self.results[0].trials)} objects on {len(self.samples)} images", fontsize=10)
        axes.legend(frameon=False)
        figure.savefig(path, dpi=120)

    def contact_sheet(self, path: str | Path) -> None:
        """Show the first method's worst objects."""
        from matplotlib.figure import Figure

        first, threshold = self.results[0], max(self.config.thresholds)
        worst = sorted(
            first.trials,
            key=lambda t: (
                -(t.clicks_to(threshold, self.config.max_clicks) or math.inf),
                t.iou_after(len(t.ious)),
            ),
        )[:WORST]
        by_name = {sample.name: sample for sample in self.samples}
        names = {trial.image for trial in worst}
        clickers = {name: self.methods[first.method](by_name[name].image) for name in names}
        columns = 6
        rows = math.ceil(len(worst) / columns)
        figure = Figure(figsize=(2 * columns, 2.2 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, trial in zip(grid.flat, worst, strict=False):
            clicker = clickers[trial.image]
            clicker.begin()
            for given in trial.given:
                mask = answer(clicker, given)
            _draw(axes, trial, by_name[trial.image], mask)
        figure.savefig(path, dpi=110)


def _draw(axes: Any, trial: Trial, sample: Sample, mask: NDArray[np.bool_]) -> None:
    """Show an object: truth green, mask magenta, clicks as dots, a box as a frame."""
    from matplotlib.patches import Rectangle

    target = sample.labels == trial.label
    box = Box.around(target | mask).grown(12, 12).intersect(Box.of(target.shape))
    picture = Planes.of(sample.image).read((), box).astype(np.uint8)
    picture[find_boundaries(target[box.slices])] = (0, 220, 0)
    picture[find_boundaries(mask[box.slices])] = (230, 0, 230)
    axes.imshow(picture)
    if trial.box is not None:
        left, top, right, bottom = trial.box.shift(-box.top, -box.left)
        corner = left - 0.5, top - 0.5
        axes.add_patch(
            Rectangle(corner, right - left, bottom - top, fill=False, edgecolor="lime", linewidth=0.8)
        )
    for y, x, positive in trial.clicks:
        if box.has(y, x):
            axes.plot(x - box.left, y - box.top, ".", color="lime" if positive else "red", markersize=4)
    axes.set_title(
        f"{trial.image[:8]} #{trial.label}\nIoU {trial.ious[-1]:.2f}, {len(trial.ious)} clicks", fontsize=7
    )


def _shown(name: str, value: float) -> str:
    if name == "objects" or name.startswith("NoF"):
        return str(int(value))
    return f"{value:.3f}" if name.startswith("IoU") else f"{value:.2f}"
