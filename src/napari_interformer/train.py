"""Training: a folder of images and labels goes in, a model comes out, by one step and one loop around it.

It follows the paper's recipe (Huang et al., ICCV 2023, section 4.1), except for this:
- One encoding of a crop teaches many objects at once (`crops.py`), each in its own window (`loss.py`).
- A Dice loss and a loss on the encoder alone (`dense`) are added to the focal losses.
- The ViT's patch embedding decays as other weights do.
- Weights start at random and not from MAE, and all layers learn at one rate unless `layer_decay` is set. The rate is ten times
  the paper's, its warm-up is shorter, and the norm of the gradient is limited. A running average of the weights is saved.
- Crops are smaller, as many as make up `pixels_per_step`; they are magnified according to the size of their objects, turned,
  stretched and recoloured.
- While clicks are simulated, masks obey the clicks given so far, as they do in a session.

    python -m napari_interformer.cli train FOLDER -o model.safetensors        one device
    torchrun --nproc-per-node 4 -m napari_interformer.cli train FOLDER ...    several GPUs
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import logging
import math
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from napari_interformer.checkpoint import check_name, load_model, save_model
from napari_interformer.crops import Batches, loader, synthetic_pictures, training_pictures, windows
from napari_interformer.datasets import VALIDATION
from napari_interformer.files import at_home, brief, unwritable
from napari_interformer.geometry import DIVISOR
from napari_interformer.loss import ClickConfig, click_loss
from napari_interformer.model import (
    PRESETS,
    InterFormer,
    decoding_device,
    normalise,
    resolve_device,
)
from napari_interformer.settings import FINITE, RANGE, SHARE, Allowed, at_least, of_process, one_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import Tensor

    from napari_interformer.crops import Batch, Picture

    Tensors = tuple[Tensor, ...] | list[Tensor]

log = logging.getLogger(__name__)

CANCELLED = 2  # a process's vote: go on is 0, the run is over 1
HARMLESS = ("device", "workers", "save_minutes")  # settings that a resumed run may change
LARGEST_GRADIENT = 1.0  # norm to which gradients are cut
TOLD_EVERY = 20  # steps between two reports of progress


def _is_side(number: Any) -> bool:
    """Whether a crop can be so many pixels wide."""
    return isinstance(number, Integral) and int(number) > 0 and int(number) % DIVISOR == 0


@dataclass(frozen=True)
class TrainConfig(ClickConfig):
    """Everything that shapes a training run, in addition to `ClickConfig`.

    Attributes
    ----------
    preset : str
        Sizes of the network: light or tiny as in the paper (tiny is the larger one), or small like the one in the package.
    initial : str
        Name or file of a model to start from, instead of random weights; its sizes are used.
    layers : int
        Layers of the vision transformer; 0 for as many as the preset, or `initial`, has. What it has more than `initial` begins
        by adding nothing.
    dataset : str
        Layout of the folder: "folder" for images/ and labels/, or a published data set: dsb2018, grabcut, berkeley, davis
        or sbd.
    validation : float
        Share of the images of each kind that is kept out of training.
    synthetic : float
        Share of the crops that are from synthetic images (`samples.py`); with --adapt, the share of the images.
    synthetic_images : int
        How many synthetic images are made, once, at the start.
    exclude : str
        Kinds of image and synthetic families to leave out, separated by commas; this shows how good a model is on what it
        has never seen.
    steps : int
        Optimiser steps.
    minutes : float
        Stop after this many minutes even if steps are left (the learning rate follows whichever ends first); 0 for no limit.
    crop_sizes : tuple of int
        Sides of the square crops in pixels; each step uses one of them.
    pixels_per_step : int
        Pixels encoded per step and device; divided by a crop's area, this is the batch size.
    windows_per_step : int
        Objects per step and device, at half the model's click window (or of the smallest crop, if that is smaller); fewer if
        the window is larger.
    window_sizes : tuple of float
        Sides of the window in which an object is decoded, in click windows, rounded to multiples of 32; each step uses one
        of them. Smaller ones are cheaper and teach much the same, which helps on a CPU.
    balance : float
        How much more often images of rare kinds are used: the chance of an image is the number of images of its kind to the
        power of minus this. With 0, each image is equally likely; with 1, each kind.
    diameters : tuple of float
        Range of an image's median object diameter after random magnification, in pixels; drawn log-uniformly.
    zoom : tuple of float
        Smallest and largest magnification; an image that would not fill a crop is magnified more.
    lr : float
        Peak learning rate of AdamW.
    weight_decay : float
        Weight decay of AdamW; norms, biases and embeddings are not decayed.
    layer_decay : float
        Learning rate of each ViT layer relative to the next one (0.65 for light, 0.75 for tiny when fine-tuning).
    warmup : int
        Steps of linear warm-up.
    average : float
        Largest decay of the running average of the weights, which is what is saved; the decay starts smaller.
    kept : float
        Share of the weights of `initial` in those that are saved; 0 without `initial`.
    dense : float
        Weight of a loss on the encoder alone: foreground and borders of all objects of a crop, predicted from the finest map
        (not in the paper). Set it to 0 if not every object in the folder is labelled.
    precision : str
        "bf16", "fp32" or "auto", which is bf16 on GPUs that support it.
    device : str
        "auto", "cpu" or "cuda"; with torchrun, each process uses the GPU of its number.
    workers : int
        Number of processes that make crops; 0 for none.
    seed : int
        Random seed for the synthetic images, the crops and the clicks.
    save_minutes : float
        Minutes between two saves of the state from which training can be resumed.
    """

    preset: str = "small"
    initial: str = ""
    layers: int = 0
    dataset: str = "folder"
    validation: float = VALIDATION
    synthetic: float = 0.0
    synthetic_images: int = 600
    exclude: str = ""
    steps: int = 10_000
    minutes: float = 0.0
    crop_sizes: tuple[int, ...] = (128, 128, 128, 256)
    pixels_per_step: int = 4 * 128 * 128
    windows_per_step: int = 64
    window_sizes: tuple[float, ...] = (0.5, 0.5, 1, 1, 2)
    balance: float = 0.25
    diameters: tuple[float, float] = (9.0, 60.0)
    zoom: tuple[float, float] = (0.5, 4.0)
    lr: float = 1e-3
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    warmup: int = 100
    average: float = 0.998
    kept: float = 0.0
    dense: float = 1.0
    precision: str = "auto"
    device: str = "auto"
    workers: int = 1
    seed: int = 0
    save_minutes: float = 5.0
    allowed: ClassVar = ClickConfig.allowed | {
        "precision": one_of(("auto", "bf16", "fp32")),
        "validation": SHARE,
        "synthetic": SHARE,
        "synthetic_images": at_least(1),
        "layers": at_least(0),
        "steps": at_least(1),
        "minutes": at_least(0),
        "crop_sizes": Allowed(
            f"multiples of {DIVISOR}",
            lambda sides: sides and all(map(_is_side, sides)),
        ),
        "pixels_per_step": at_least(1),
        "windows_per_step": at_least(1),
        "window_sizes": Allowed(
            "numbers above 0", lambda shares: shares and all(0 < share < math.inf for share in shares)
        ),
        "balance": SHARE,
        "diameters": RANGE,
        "zoom": RANGE,
        "lr": FINITE,
        "weight_decay": FINITE,
        "layer_decay": SHARE,
        "warmup": at_least(1),
        "average": SHARE,
        "kept": SHARE,
        "dense": FINITE,
        "workers": at_least(0),
        "seed": at_least(0),
        "save_minutes": at_least(0),
    }

    def __post_init__(self) -> None:
        """Refuse settings that make no sense alone or together, before anything is read."""
        super().__post_init__()
        if self.kept and not self.initial:
            raise ValueError(
                f"kept is a share of the weights of initial; got {self.kept} without initial: name a model."
            )
        if self.kept and self.layers:
            raise ValueError(
                "kept needs a network with as many layers as initial; got layers, too: leave one of them out."
            )


@dataclass(frozen=True)
class Progress:
    """The progress of a run; the loss and the IoUs are averages since the last report."""

    step: int
    steps: int
    loss: float
    first_iou: float
    last_iou: float
    seconds_left: float


# --------------------------------------------------------------------------------------- one step


class Step(nn.Module):
    """Batch to loss, with the clicks simulated on the way. A module so that several GPUs can share it."""

    def __init__(self, model: InterFormer, config: TrainConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        stride = model.strides[0]
        self.dense_head = nn.Sequential(
            nn.Conv2d(model.channels[0], 2 * stride**2, 1), nn.PixelShuffle(stride)
        )
        # What has no share in the loss gets no gradient, for which several GPUs would wait.
        model.auxiliary_head.requires_grad_(config.auxiliary > 0)
        self.dense_head.requires_grad_(config.dense > 0)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, and the mean IoU after the first click and with all clicks."""
        model, config = self.model, self.config
        rng = np.random.default_rng(batch.seed)
        maps = model.encode(normalise(batch.pixels.float()))
        finest = maps[0]
        images, corners = batch.objects[:, 0], batch.objects[:, 2:]
        maps = [
            windows(level, images, corners // stride, batch.window // stride)
            for level, stride in zip(maps, model.strides, strict=True)
        ]
        loss, first, last = click_loss(model, maps, batch.targets, batch.ignored, config, rng)
        if config.dense:
            dense, known = self.dense_head(finest).float(), (batch.labels >= 0)[:, None].float()
            loss = loss + config.dense * F.binary_cross_entropy_with_logits(dense, batch.dense.float(), known)
        return loss, first, last


# --------------------------------------------------------------------------------------- the loop


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Treat denormal numbers as zero: late in a run many gradients are denormal, and some CPUs are far slower on them.

    In this thread, where all work is done that is not shared among several. It is switched back, because the caller goes on
    computing here.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@denormals_as_zero()
def train(
    folder: str | Path,
    output: str | Path,
    config: TrainConfig | None = None,
    *,
    progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Path:
    """Train a model from a folder of images and label images.

    Parameters
    ----------
    folder : str or Path
        Images and labels, in the layout `config.dataset`; they are held in memory.
    output : str or Path
        The model, `.safetensors`. Beside it, `<name>.state.pt` holds what resuming needs: the same call continues from
        there, and the file is deleted when the run has ended. The number of processes may change when a run is resumed:
        each draws its own crops, so only the number of crops per step changes from there on.
    config : TrainConfig, optional
        Defaults if None.
    progress, cancelled : callable, optional
        Called with the progress; called before each synthetic image and each step, to ask whether to stop (the state of the
        steps that were made is then saved).

    Returns
    -------
    Path
        The model's file.

    Raises
    ------
    FileExistsError
        If there is already a model of that name.
    ValueError
        If the folder holds nothing to learn from, a setting is not valid, the state belongs to another run, or training
        diverges (the state that was saved last stays).
    """
    config = config or TrainConfig()
    if (
        config.preset not in PRESETS
    ):  # not earlier: whoever has a preset of their own adds it before they train
        raise ValueError(f"preset takes one of {', '.join(PRESETS)}; got {config.preset!r}.")
    folder, output = at_home(folder), at_home(output)
    check_name(output)
    state_path = output.with_name(f"{output.name.removesuffix('.safetensors')}.state.pt")
    check_new(output, state_path)
    rank, world = of_process()
    device = decoding_device(config.device)
    if world > 1:
        if device.type == "cuda":  # one for each process; NCCL takes the current one
            device = resolve_device(f"cuda:{os.environ['LOCAL_RANK']}")
            torch.cuda.set_device(device)
        torch.distributed.init_process_group()
    bf16 = config.precision == "bf16" or (config.precision == "auto" and has_bf16(device))

    torch.manual_seed(config.seed)
    model = at_the_start(config)  # what is wrong with it is told before images are read for minutes
    # Its file may be another one by the time the run is resumed, or ends.
    first_model = f"{model.fingerprint} {model.decoder_fingerprint}" if config.initial else ""
    first_weights = copy.deepcopy(model.state_dict()) if config.kept else {}
    if max(config.crop_sizes) < model.config.window:
        log.warning(
            "No crop is as large as what the network sees at once, %d pixels, so it learns only some of its positions: give "
            "larger crop_sizes (--crop-sizes), and as many pixels_per_step.",
            model.config.window,
        )
    pictures, kept_out = training_pictures(folder, config)
    synthetic = synthetic_pictures(config, cancelled) if config.synthetic else []
    log.info("%d images, %d synthetic ones", len(pictures), len(synthetic))
    settings = json.dumps(dataclasses.asdict(config), default=lambda number: number.item())  # NumPy's
    run = {"settings": settings, "images": digest(pictures), "initial": first_model}

    if model.config.diameters:  # a session shows it objects as large as those that it learns from
        low, high = model.config.diameters[0], config.diameters[1]
        model.config = dataclasses.replace(model.config, diameters=(min(low, high), high))
    model.to(device).train()
    average = averaged(model, config.average)
    step_module = Step(model, config).to(device)
    optimizer = torch.optim.AdamW(
        parameter_groups(step_module, model.config.layers, config),
        lr=config.lr,
        fused=device.type == "cuda",
    )
    parts = {"step_module": step_module, "average": average, "optimizer": optimizer}
    step, spent = load_state(state_path, run, parts) if state_path.exists() else (0, 0.0)

    batches = Batches(pictures, synthetic, config, model.config.click_window, rank)
    batches[step]  # what is wrong with the settings is told better from here than from another process
    shared = nn.parallel.DistributedDataParallel(step_module) if world > 1 else step_module

    output.parent.mkdir(parents=True, exist_ok=True)
    saved = time.monotonic()
    began = saved - spent
    recent: list[Tensor] = []  # left on the device until it is told
    vote = 0
    for batch in loader(batches, step):
        done = share_done(step, config.steps, time.monotonic() - began, config.minutes)
        asked = cancelled is not None and cancelled()
        vote, done = agreed(CANCELLED if asked else int(done >= 1), done, device, world)
        if vote:
            break
        rate = pace(step, config.warmup, done)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * group["scale"] * rate
        batch = batch.to(device)
        torch.manual_seed(batch.seed)  # or a resumed run would drop other branches than an undisturbed one
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss, first, last = shared(batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(step_module.parameters(), LARGEST_GRADIENT)
        optimizer.step()
        average.update_parameters(model)
        step += 1
        recent.append(torch.stack([loss.detach(), first, last]))
        if step % TOLD_EVERY == 0:  # not at each step, because whoever asks for a number waits for it
            check_sound(model.parameters(), step, config.lr)
            if progress is not None and rank == 0:
                seconds = time.monotonic() - began
                done = share_done(step, config.steps, seconds, config.minutes)
                loss, first, last = torch.stack(recent).mean(0).tolist()
                progress(Progress(step, config.steps, loss, first, last, seconds / done * (1 - done)))
            recent.clear()
        if time.monotonic() - saved > 60 * config.save_minutes:
            saved = time.monotonic()
            check_sound(model.parameters(), step, config.lr)
            if rank == 0:
                try:
                    save_state(state_path, run, parts, step, saved - began)
                except OSError as error:  # hours of work go on; there may be room the next time
                    log.warning("%s", error)
    seconds = time.monotonic() - began
    check_sound(model.parameters(), step, config.lr)
    if rank == 0 and vote == CANCELLED:
        save_state(state_path, run, parts, step, seconds)
    elif rank == 0:
        trained = cast("InterFormer", average.module).eval()
        if config.kept:
            mix(trained.state_dict().values(), first_weights.values(), config.kept)
        told = dataclasses.replace(config, initial=Path(config.initial).name)  # a machine's paths stay on it
        notes = {
            "trained": f"{step} steps, {seconds / 3600:.2f} h on {device.type}",
            "kept": str(kept_out),  # images that were not trained on
            "config": repr(told),
        }
        part_of(state_path).unlink(missing_ok=True)
        save_model(trained, output, notes, half=True)
        state_path.unlink(missing_ok=True)
    if world > 1:
        torch.distributed.destroy_process_group()
    return output


@torch.no_grad()
def mix(new: Iterable[Tensor], old: Iterable[Tensor], share: float) -> None:
    """Move weights a share of the way back to those of another model of the same sizes (Wortsman et al., CVPR 2022)."""
    for one, other in zip(new, old, strict=True):
        if one.is_floating_point():
            one.lerp_(other.to(one.device), share)


def check_new(output: Path, state: Path | None = None) -> None:
    """Refuse to overwrite a model that took hours."""
    if output.exists():
        remedy = "name another output, or delete it first"
        if state is not None and state.exists():
            remedy = f"name another output, or delete it to continue from {state.name}, which lies beside it"
        raise FileExistsError(f"{output.name} already exists: {remedy}.")


def digest(pictures: Sequence[Picture]) -> str:
    """Return a hash that differs between runs on different images: of their kinds, sizes and median diameters.

    Other intensities, and objects of other shapes or in other places, go unnoticed if these are the same.
    """
    told = [(picture.kind, picture.pixels.shape, picture.diameter) for picture in pictures]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def part_of(state: Path) -> Path:
    """Return where a state is written first; always the same, so that a kill leaves one at most."""
    return state.with_name(f"{state.name}.part")


def save_state(path: Path, run: dict[str, str], parts: dict[str, Any], step: int, seconds: float) -> None:
    """Save what a run needs to go on, whole or not at all.

    `run` tells it from other runs: its settings, images and first model. `parts` are what has a state of its own.
    """
    states = {name: part.state_dict() for name, part in parts.items()}
    try:
        torch.save({**run, **states, "step": step, "seconds": seconds}, part_of(path))
        os.replace(part_of(path), path)
    except (OSError, RuntimeError) as error:  # PyTorch has an error of its own for a full disk
        part_of(path).unlink(missing_ok=True)  # or it takes the space of what is still to be written
        raise unwritable(path, error) from error


def load_state(path: Path, run: dict[str, str], parts: dict[str, Any]) -> tuple[int, float]:
    """Give all parts the state that they were saved with; return the steps and seconds that were made."""
    try:
        # Not to the device, which has no room for it twice; what is loaded goes where its parameter is.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that was cut short breaks the reader in many places
        raise _unusable(path, error) from error
    check_run(path.name, state, run)
    try:
        for name, part in parts.items():
            part.load_state_dict(state[name])
        step, seconds = state["step"], state["seconds"]
    except torch.OutOfMemoryError:  # of which the state is not to blame
        raise
    except (KeyError, RuntimeError, ValueError) as error:
        raise _unusable(path, error) from error
    log.info("continuing from step %d of %s", step, path.name)
    return step, seconds


def _unusable(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path.name} cannot be read ({brief(error)}): copy it again, or delete it to start again."
    )


def check_run(name: str, state: dict[str, Any], run: dict[str, str]) -> None:
    """Refuse the state of another run than this one."""
    if "settings" not in state:
        raise ValueError(
            f"{name} was written by another version of the package: finish the run there, or delete it to start again."
        )
    now = json.loads(run["settings"])
    # A setting that came later was as it is by default.
    then = json.loads(json.dumps(dataclasses.asdict(TrainConfig()))) | json.loads(state["settings"])
    changed = [key for key in now if key not in HARMLESS and then.get(key) != now[key]]
    if changed:
        told = ", ".join(f"{key} ({then.get(key)} then, {now[key]} now)" for key in changed)
        raise ValueError(
            f"{name} is the state of a run with other settings: {told}. Give those again, or delete it to start again."
        )
    if state.get("images") != run["images"]:
        raise ValueError(
            f"{name} is the state of a run on other images. Give the folder of that run, name another output, or delete "
            "it to start again."
        )
    if state.get("initial", run["initial"]) != run["initial"]:  # which states from before do not tell
        raise ValueError(
            f"{name} is the state of a run from another model, which the file of that name no longer is. Give the model of "
            "that run, or delete the state to start again."
        )


def averaged(model: nn.Module, decay: float) -> torch.optim.swa_utils.AveragedModel:
    """Return a running average of a model's weights.

    Its decay grows with the number of steps, because a short run would otherwise save little but its initial weights.
    """

    def move(means: Tensors, weights: Tensors, _: Tensor | int) -> None:
        # Kept with the state, and on the CPU; the number that is given here may lie on a GPU, which would be waited for.
        n = int(average.n_averaged)
        now = min(decay, (1 + n) / (10 + n))
        torch.optim.swa_utils.get_ema_multi_avg_fn(now)(means, weights, n)

    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=move, use_buffers=True)
    return average


def check_sound(weights: Iterable[Tensor], step: int, lr: float) -> None:
    """Refuse to go on with, or save, weights of which a step has made something else than numbers: they stay so."""
    if not nn.utils.get_total_norm(weights).isfinite():
        raise ValueError(
            f"Learning needs weights that stay finite; by step {step} they no longer were, and are not saved: give a lower lr "
            f"than {lr}, and start again."
        )


def pace(step: int, warmup: int, done: float) -> float:
    """Return the learning rate of a step, from 0 to 1: it rises for `warmup` steps, and falls evenly with the share done."""
    return min(1, (step + 1) / warmup) * (1 - done)


def share_done(step: int, steps: int, seconds: float, minutes: float) -> float:
    """Return how much of a run is over, from 0 to 1, by its steps or its minutes (0 for no limit), whichever is further."""
    return min(1.0, max(step / steps, seconds / (60 * minutes) if minutes else 0))


def has_bf16(device: torch.device) -> bool:
    """Whether a device is a GPU that computes in bfloat16; older ones only pretend to, slowly."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def agreed(vote: int, done: float, device: torch.device, world: int) -> tuple[int, float]:
    """Return the largest vote and share done of all processes, whose clocks differ.

    If one stops, all stop, because the others would wait for it forever; and all learn at one rate, because their weights
    would otherwise diverge.
    """
    if world == 1:
        return vote, done
    largest = torch.tensor([vote, done], dtype=torch.float64, device=device)
    torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
    return int(largest[0].item()), float(largest[1].item())


def parameter_groups(module: nn.Module, layers: int, config: TrainConfig) -> list[dict[str, object]]:
    """Return AdamW's groups: layer-wise rates for the ViT, no decay for norms, biases, embeddings."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        parts = name.removeprefix("model.").split(".")
        depth = layers + 1  # everything after the ViT learns at the full rate
        if parts[:2] == ["backbone", "layers"]:
            depth = int(parts[2]) + 1
        elif parts[0] == "backbone" and parts[1] in ("cls_token", "pos_embed", "patch_embed"):
            depth = 0
        plain = parameter.ndim > 1 and not name.endswith(
            ("pos_embed", "cls_token", "bias_table", "neck.patch_embed")
        )
        key = (config.layer_decay ** (layers + 1 - depth), config.weight_decay if plain else 0.0)
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": params, "scale": scale, "weight_decay": decay} for (scale, decay), params in groups.items()
    ]


def at_the_start(config: TrainConfig) -> InterFormer:
    """Return the model that a run starts from."""
    if not config.initial:
        size = PRESETS[config.preset]
        return initialise(InterFormer(dataclasses.replace(size, layers=config.layers or size.layers)))
    model = load_model(config.initial)
    return deeper(model, config.layers) if config.layers else model


def deeper(model: InterFormer, layers: int) -> InterFormer:
    """Return a model with more layers, which answers as before: the further ones are like the last, but add nothing yet.

    Raises
    ------
    ValueError
        If the model has more than so many.
    """
    before = model.config.layers
    if layers < before:
        raise ValueError(
            f"layers takes at least those of initial, {before}; got {layers}: layers cannot be taken away."
        )
    grown = InterFormer(dataclasses.replace(model.config, layers=layers))
    state = model.state_dict()
    last = f"backbone.layers.{before - 1}."
    for name in [name for name in state if name.startswith(last)]:
        for number in range(before, layers):
            part = name.removeprefix(last)
            # Their scale alone is 0: it has a gradient, and so learns.
            told = torch.zeros_like(state[name]) if part.startswith("gamma") else state[name].clone()
            state[f"backbone.layers.{number}.{part}"] = told
    grown.load_state_dict(state)
    return grown


def initialise(model: InterFormer) -> InterFormer:
    """Set a fresh model's weights: truncated normal for linear layers and embeddings, zero for biases.

    A short run learns to use the clicks only if they stand out from the features that they are added to: the states of the
    reference label start evenly spaced along one direction, and the features ten times smaller.
    """
    with torch.no_grad():
        for branch in model.backbone.fpn.rescale_ops:
            cast("nn.GroupNorm", cast("nn.Sequential", branch)[-2]).weight.mul_(0.1)
        if model.backbone.detail is not None:
            model.backbone.detail.lateral_finest.weight.mul_(0.1)
            model.backbone.detail.lateral_second.weight.mul_(0.1)
        states = model.neck.patch_embed
        direction = torch.randint(0, 2, (states.shape[1],)) * 2.0 - 1
        states.copy_(
            torch.linspace(-2, 2, len(states))[:, None] * direction + 0.1 * torch.randn(states.shape)
        )
    for name, parameter in model.named_parameters():
        if name.endswith(("pos_embed", "cls_token")):
            nn.init.trunc_normal_(parameter, std=0.02)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=min(0.05, module.in_features**-0.5))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model
