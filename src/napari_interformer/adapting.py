"""A model learns from a person's own finished labels, in minutes and without a GPU.

Features are stored and the encoder stays as it is, so only I-MSA and the head have to learn. The adapted model works with the
features that are there already.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch

from napari_interformer import checkpoint
from napari_interformer.crops import LEAST_PIXELS
from napari_interformer.decoding import image_of
from napari_interformer.features import Features
from napari_interformer.files import labels_at
from napari_interformer.geometry import Box, cut, placed, rounded_up
from napari_interformer.loss import ClickConfig, click_loss
from napari_interformer.painting import check_labels, objects_on
from napari_interformer.scales import covered, level_for, maps_at, size_at, to_working
from napari_interformer.settings import FINITE, SHARE, at_least
from napari_interformer.train import LARGEST_GRADIENT, Progress, check_sound, mix, pace, share_done

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from napari_interformer.image import ImageLike, Plane, Planes
    from napari_interformer.model import InterFormer
    from napari_interformer.painting import LabelImage

log = logging.getLogger(__name__)

UNMAGNIFIED = 0.3  # of the small objects: so a session sees them at the first click
WARMUP = 20  # steps until the learning rate is the one that was asked for


@dataclass(frozen=True)
class AdaptConfig(ClickConfig):
    """How a model is adapted, in addition to `ClickConfig`.

    Attributes
    ----------
    steps : int
        Largest number of optimiser steps.
    passes : int
        How often each object is used, on average and at most, because a few objects would otherwise be learnt by heart.
    minutes : float
        Stop after this many minutes even if steps are left (the learning rate follows whichever ends first); 0 for no limit.
    objects : int
        Largest number of objects to learn from, drawn at random, equally many from each image where there are enough; their
        features are held in memory.
    windows_per_step : int
        Objects per step, at the smallest decoding window.
    lr, weight_decay : float
        Peak learning rate and weight decay of AdamW.
    kept : float
        Share of the old weights in the new ones. What a few objects teach holds best for other objects about half-way between
        the two (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).
    seed : int
        Random seed for the choice of objects and the clicks.
    """

    auxiliary: float = 0.0  # its only purpose is to teach the encoder
    steps: int = 600
    passes: int = 10
    minutes: float = 4.0
    objects: int = 800
    windows_per_step: int = 8
    lr: float = 1e-3
    weight_decay: float = 0.01
    kept: float = 0.5
    seed: int = 0

    allowed: ClassVar = ClickConfig.allowed | {
        "steps": at_least(1),
        "passes": at_least(1),
        "minutes": at_least(0),
        "objects": at_least(1),
        "windows_per_step": at_least(1),
        "lr": FINITE,
        "weight_decay": FINITE,
        "kept": SHARE,
        "seed": at_least(0),
    }


@dataclass(frozen=True, eq=False)
class _Lesson:
    """An object in its window.

    Four maps (C_i, h / s_i, w / s_i) float16, the object (h, w) bool, and what beside it does not count (h, w) bool.
    """

    maps: list[NDArray[np.float16]]
    target: NDArray[np.bool_]
    ignored: NDArray[np.bool_]


class _Candidate(NamedTuple):
    """An object on a plane: its number and box, the level at which a session shows it, and its area there in pixels."""

    plane: Plane
    label: int
    box: Box
    level: int
    area: float


def adapt(
    model: InterFormer,
    features: Features | Sequence[Features],
    labels: LabelImage | Sequence[LabelImage],
    *,
    images: ImageLike | Sequence[ImageLike | None] | None = None,
    config: AdaptConfig | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> InterFormer:
    """Teach a copy of a model, except its encoder, from finished labels.

    Parameters
    ----------
    model : InterFormer
        The model that made the features; it stays as it is.
    features : Features or sequence of Features
        Of one or several images; planes that are not encoded are skipped.
    labels : integer array or sequence of them
        A label image of the shape of each: 0 is background, every number above it an object, and pixels below 0 do not count.
        Not every object has to be labelled; those of less than 12 pixels, as a session shows them, are left out.
    images : array, path or Planes, or sequence of them, optional
        The images, as `Planes.of` takes them, so that small and large objects are seen at the magnification at which a
        session shows them, and pixels without a value (NaN) do not count; features that were just encoded bring theirs.
    config : AdaptConfig, optional
        Defaults if None.
    progress, cancelled : callable, optional
        Called after each step; called before each step, plane and object, to ask whether to stop.

    Returns
    -------
    InterFormer
        It works with the same features. Save it with `save_model`.

    Raises
    ------
    TypeError
        If `features` are not features, or `config` is none of `adapt`.
    ValueError
        If features, labels and images do not belong together, the features are another model's, no labelled object that is
        large enough lies on an encoded plane, or learning diverges.
    concurrent.futures.CancelledError
        If it was cancelled.
    """
    if config is None:
        config = AdaptConfig()
    elif not isinstance(config, AdaptConfig):
        raise TypeError(
            f"config takes an AdaptConfig; got {config!r}: write AdaptConfig(steps=...), for example."
        )
    pairs = _pairs(model, features, labels, images)
    rng = np.random.default_rng(config.seed)

    def go_on() -> None:
        if cancelled is not None and cancelled():
            raise CancelledError("Adapting was cancelled; the model has not changed.")

    found = [_found(model, *pair, go_on) for pair in pairs]
    large = [[one for one in objects if one.area >= LEAST_PIXELS] for objects in found]
    shares = _shares([len(objects) for objects in large], config.objects)
    lessons = [
        lesson
        for pair, objects, share in zip(pairs, large, shares, strict=True)
        for lesson in _lessons(model, *pair, objects, share, rng, go_on)
    ]
    if not lessons and any(found):
        raise ValueError(
            f"adapt needs objects of at least {LEAST_PIXELS} pixels with a value; got {sum(map(len, found))} on encoded "
            "planes, none of that size: commit larger ones, or check the labels."
        )
    if not lessons:
        raise ValueError(
            "adapt needs finished labels; got none on an encoded plane: commit some objects first, the more varied the better."
        )
    log.info("adapting on %d objects", len(lessons))
    learner = copy.deepcopy(model)
    # In evaluation mode throughout: nothing that norms have learnt from many images is to be overwritten by few.
    learner.eval().requires_grad_(False)
    taught = _taught(learner)
    for parameter in taught:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(taught, lr=config.lr, weight_decay=config.weight_decay)
    steps = min(config.steps, max(1, round(config.passes * len(lessons) / config.windows_per_step)))
    began = time.monotonic()
    for step, batch in enumerate(_batches(lessons, config, model.config.click_window, rng)):
        go_on()
        seconds = time.monotonic() - began
        done = share_done(step, steps, seconds, config.minutes)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = config.lr * pace(step, WARMUP, done)
        maps = [
            torch.from_numpy(np.stack([lesson.maps[i] for lesson in batch])).to(model.device).float()
            for i in range(4)
        ]
        targets = torch.from_numpy(np.stack([lesson.target for lesson in batch])).to(model.device)
        ignored = torch.from_numpy(np.stack([lesson.ignored for lesson in batch])).to(model.device)
        loss, first, last = click_loss(learner, maps, targets, ignored, config, rng)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(taught, LARGEST_GRADIENT)
        optimizer.step()
        check_sound(taught, step + 1, config.lr)
        if progress is not None:
            seconds = time.monotonic() - began
            done = share_done(step + 1, steps, seconds, config.minutes)
            left = seconds / done * (1 - done)
            progress(Progress(step + 1, steps, float(loss.detach()), float(first), float(last), left))
    # Not of the encoder, which even 0 in place of -0 would make another one.
    mix(taught, _taught(model), config.kept)
    return learner.requires_grad_(True).eval()


def _taught(model: InterFormer) -> list[torch.nn.Parameter]:
    """Return what is taught: I-MSA and the head."""
    return [*model.neck.parameters(), *model.decode_head.parameters()]


def adapt_and_save(
    model: InterFormer,
    features: Features,
    labels: LabelImage,
    wanted: str,
    before: str,
    *,
    progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
) -> tuple[str, InterFormer]:
    """Adapt a model to one image, and save it among the user's models under the name wanted, or a similar free one.

    `before` is the name or path of the model it starts from; the rest is as for `adapt`.

    Returns
    -------
    str, InterFormer
        Its name, and the adapted model.
    """
    # If that is not allowed, nobody waits in vain.
    checkpoint.user_models().mkdir(parents=True, exist_ok=True)
    adapted = adapt(model, features, labels, progress=progress, cancelled=cancelled)
    name = checkpoint.new_name(wanted)
    notes = {"adapted": f"from {Path(before).name} on 1 image"}
    path = checkpoint.save_model(adapted, checkpoint.user_models() / f"{name}.safetensors", notes)
    # Reads all weights, once: better here than in the window.
    assert adapted.fingerprint == features.model_fingerprint
    if cancelled():
        path.unlink()
        raise CancelledError("Adapting was cancelled; the model has not changed.")
    return name, adapted


def _pairs(
    model: InterFormer, features: Any, labels: Any, images: Any
) -> list[tuple[Features, LabelImage, Planes | None]]:
    """Check that everything belongs together, and make lists of single items."""
    if isinstance(features, Features):
        features, labels, images = [features], [labels], [images]
    elif not isinstance(features, Sequence) or not all(isinstance(one, Features) for one in features):
        raise TypeError(
            f"adapt takes a model, features and labels, in this order; got {type(features).__name__} for the features: make "
            "them with encode."
        )
    images = [None] * len(features) if images is None else images
    if not hasattr(labels, "__len__") or not hasattr(images, "__len__"):
        raise TypeError(
            "adapt takes lists of label images and of images together with a list of features; got "
            f"{type(labels).__name__} and {type(images).__name__}: put them into lists."
        )
    if not len(features) == len(labels) == len(images) or not features:
        raise ValueError(
            f"adapt takes one label image for the features of each image; got {len(labels)} for {len(features)}, and "
            f"{len(images)} images."
        )
    pairs = []
    for one, truth, image in zip(features, labels, images, strict=True):
        if one.model_fingerprint != model.fingerprint:
            raise ValueError(
                "adapt takes features from the model to be adapted; got another model's: encode the image with this model."
            )
        check_labels(truth, one)
        pairs.append((one, truth, image_of(one, image)))
    return pairs


def _found(
    model: InterFormer,
    features: Features,
    labels: LabelImage,
    image: Planes | None,
    go_on: Callable[[], None],
) -> list[_Candidate]:
    """Return the objects on an image's encoded planes."""
    found = []
    diameters = model.config.diameters if image is not None else ()
    for plane in np.ndindex(*features.leading):
        go_on()
        if not features.ready(plane):
            continue
        here = labels_at(labels, plane)
        for label, box in objects_on(here):
            level = level_for(box.extent, diameters) if diameters else 0
            area = np.count_nonzero(here[box.slices] == label) * 4.0**level
            found.append(_Candidate(plane, label, box, level, area))
    return found


def _shares(counts: Sequence[int], most: int) -> list[int]:
    """Divide `most` objects among images that have `counts`: evenly, and what one lacks goes to those that have more."""
    shares = [0] * len(counts)
    for number, i in enumerate(sorted(range(len(counts)), key=counts.__getitem__)):
        shares[i] = min(counts[i], most // (len(counts) - number))
        most -= shares[i]
    return shares


def _lessons(
    model: InterFormer,
    features: Features,
    labels: LabelImage,
    image: Planes | None,
    found: Sequence[_Candidate],
    most: int,
    rng: np.random.Generator,
    go_on: Callable[[], None],
) -> list[_Lesson]:
    """Return objects of an image in their windows, at most `most` of those found, drawn at random."""
    lessons: list[_Lesson] = []
    for number in rng.permutation(len(found)):
        if len(lessons) == most:
            break
        go_on()
        plane, label, box, level, _ = found[number]
        mask = labels_at(labels, (*plane, *box.slices)) == label
        mask &= ~_valueless(features, image, plane, box)
        if level > 0 and np.count_nonzero(mask) >= LEAST_PIXELS and rng.random() < UNMAGNIFIED:
            level = 0
        seen, target = to_working(mask, box, level)
        if target.sum() < LEAST_PIXELS:
            continue  # too thin to be seen from farther away, for example
        window = _window(model, seen, size_at(features.size, level), rng)
        maps = (
            features.window(plane, window)
            if level == 0 or image is None
            else maps_at(image, model, plane, level, window)
        )
        target = cut(target, seen, window, False)
        # A working pixel may be half of the object and half of what does not count: then it is the object's.
        ignored = _ignored(features, labels, image, plane, level, window) & ~target
        lessons.append(_Lesson([one.astype(np.float16) for one in maps], target, ignored))
    return lessons


def _ignored(
    features: Features, labels: LabelImage, image: Planes | None, plane: Plane, level: int, window: Box
) -> NDArray[np.bool_]:
    """Return what of a window does not count, in working pixels: beyond the image, labels below 0, and without a value."""
    there = covered(window, level, features.size)
    below = labels_at(labels, (*plane, *there.slices)) < 0
    seen, ignored = to_working(below | _valueless(features, image, plane, there), there, level)
    return cut(ignored, seen, window, True)


def _valueless(features: Features, image: Planes | None, plane: Plane, box: Box) -> NDArray[np.bool_]:
    """Return which pixels of a box have no value, as far as the image is at hand."""
    if image is None or not features.origin.floating:
        return np.zeros(box.shape, bool)
    return np.asarray(np.isnan(image.raw(plane, box)).any(axis=2))


def _window(model: InterFormer, seen: Box, size: tuple[int, int], rng: np.random.Generator) -> Box:
    """Place a window as a session might: over the object, not always in its middle."""
    spans = []
    for start, stop, length in ((seen.left, seen.right, size[1]), (seen.top, seen.bottom, size[0])):
        most = rounded_up(length)
        side = model.config.click_window
        while side < model.config.zoom_expansion * seen.extent and side < model.config.window:
            side *= 2
        side = min(side, most)
        reach = max(0, side - (stop - start)) / 4
        first = placed((start + stop) / 2 + rng.uniform(-reach, reach), side, most)
        spans.append((first, first + side))
    (left, right), (top, bottom) = spans
    return Box(left, top, right, bottom)


def _batches(
    lessons: Sequence[_Lesson], config: AdaptConfig, smallest: int, rng: np.random.Generator
) -> Iterator[list[_Lesson]]:
    """Draw lessons with windows of one size, without end; each lesson is equally likely."""
    groups: dict[tuple[int, ...], list[_Lesson]] = {}
    for lesson in lessons:
        groups.setdefault(lesson.target.shape, []).append(lesson)
    while True:
        group = groups[lessons[int(rng.integers(len(lessons)))].target.shape]
        height, width = group[0].target.shape
        # Not more where an image is smaller than a window: the number of steps, and so of passes, counts on that.
        count = config.windows_per_step * min(1, smallest**2 / (height * width))
        count = max(1, min(int(count), len(group)))
        yield [group[i] for i in rng.choice(len(group), count, replace=False)]
