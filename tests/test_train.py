"""Training: crops, losses, and a run that is killed and goes on."""

from __future__ import annotations

import contextlib
import itertools
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import affine_transform, gaussian_filter, label

from napari_interformer import train as training
from napari_interformer.checkpoint import read_checkpoint
from napari_interformer.image import percentiles
from napari_interformer.model import PRESETS, InterFormerConfig
from napari_interformer.prompts import Box
from napari_interformer.samples import synthetic
from napari_interformer.train import Batches, Picture, Step, TrainConfig, train

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


@pytest.fixture(autouse=True)
def _smallest(monkeypatch):
    monkeypatch.setitem(PRESETS, "smallest", SMALLEST)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
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
    return Batches(pictures(), [], replace(QUICK, **options), SMALLEST, rank=0)[step]


def test_a_step_always_gives_the_same_batch():
    a, b, other = batch(3), batch(3), batch(4)
    assert torch.equal(a.pixels, b.pixels) and torch.equal(a.labels, b.labels)
    assert torch.equal(a.objects, b.objects) and (a.window, a.seed) == (b.window, b.seed)
    assert a.pixels.shape == other.pixels.shape and not torch.equal(a.pixels, other.pixels)


@pytest.mark.parametrize("step", range(5))
def test_every_object_lies_in_its_window_of_its_crop(step):
    made = batch(step)
    assert len(made.objects) == len(made.targets) >= 2 and made.window in (32, 64)
    for (image, number, top, left), target in zip(made.objects.tolist(), made.targets, strict=True):
        box = Box(left, top, left + made.window, top + made.window)
        assert Box(0, 0, 64, 64).holds(box) and all(edge % 32 == 0 for edge in box)
        assert target.any() and torch.equal(target, made.labels[image][box.slices] == number)
        assert (made.labels[image] == number).sum() >= training.LEAST_PIXELS


def test_a_batch_is_small_for_it_goes_from_process_to_process():
    made = batch()
    assert made.pixels.dtype == torch.uint8 and made.labels.dtype == torch.int8
    assert made.pixels.nbytes + made.labels.nbytes + made.objects.nbytes < 4.1 * made.labels.nelement()
    dots = np.zeros((64, 64), np.int64)
    dots[::4, ::4] = 2**31 + 50 * np.arange(256).reshape(16, 16)  # more than int8 has, and far apart
    made = Batches(
        [Picture(dots % 251, dots)], [], replace(QUICK, zoom=(4.0, 4.0), crop_sizes=(256,)), SMALLEST, 0
    )[0]
    assert made.labels.dtype == torch.int16 and made.labels.unique().numel() > 128


def test_all_objects_and_their_outlines_are_read_off_the_labels():
    made = batch()
    for labels, (inside, edge) in zip(made.labels, made.dense, strict=True):
        assert torch.equal(inside, labels > 0)
        around = np.pad(labels.numpy(), 1, mode="edge")
        apart = [np.roll(around, shift, axis) != around for axis in (0, 1) for shift in (1, -1)]
        np.testing.assert_array_equal(edge, np.any(apart, 0)[1:-1, 1:-1])


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 60), st.integers(1, 60), st.integers(0, 9))
def test_a_window_holds_a_pixel_of_its_object(left, top, width, height, seed):
    box = Box(left, top, min(128, left + width), min(128, top + height))
    window = training.place_window(box, 64, 128, np.random.default_rng(seed))
    assert (window.width, window.height) == (64, 64)
    assert not window.intersect(box).empty


def test_the_focal_weights_of_an_image_sum_to_its_pixels():
    torch.manual_seed(0)
    logits = torch.randn(3, 2, 16, 16)
    targets = torch.rand(3, 16, 16) > 0.7
    difference = (logits[:, 1] - logits[:, 0]).double()
    chance = torch.where(targets, difference.sigmoid(), (-difference).sigmoid())
    weight = (1 - chance) ** 2
    weight = weight / weight.sum((1, 2), keepdim=True) * 256
    expected = -(0.5 * weight * chance.log()).mean()
    assert training.normalised_focal_loss(logits, targets).item() == pytest.approx(expected.item(), rel=1e-4)


def test_dice_is_nought_for_a_perfect_mask_and_one_for_an_empty_one():
    targets = torch.zeros(1, 16, 16, dtype=torch.bool)
    targets[:, 4:9, 4:9] = True
    sign = torch.where(targets, 50.0, -50.0)
    assert training.dice_loss(torch.stack([-sign, sign], 1), targets).item() < 1e-4
    assert training.dice_loss(torch.stack([sign, -sign], 1), targets).item() > 0.9


def test_numbers_of_clicks_follow_the_papers_law():
    chances = training.click_chances(TrainConfig())
    assert len(chances) == 21 and chances.sum() == pytest.approx(1)
    np.testing.assert_allclose(chances[1:] / chances[:-1], 0.6)


def test_a_few_steps_on_one_batch_lower_the_loss():
    torch.manual_seed(0)
    model = training.initialise(training.InterFormer(SMALLEST)).train()
    step = Step(model, replace(QUICK, max_clicks=0))
    optimizer = torch.optim.AdamW(step.parameters(), lr=3e-3)
    made = batch()
    losses = []
    for _ in range(40):
        loss, first, last = step(made)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        assert 0 <= first <= 1 and 0 <= last <= 1
    assert losses[-1] < 0.8 * losses[0]


class NoGenerator:
    """Stands in for `torch.Generator` on a device that has none."""

    def __init__(self, device):
        self.device = device

    def manual_seed(self, seed):
        return None


@pytest.mark.parametrize(
    "sizes",
    [
        SMALLEST,
        replace(SMALLEST, patch_size=16, detail=(), stored_channels=(2, 2, 2, 2), depths=(2, 2, 3, 2)),
    ],
    ids=["stem", "paper"],
)
def test_all_tensors_of_a_step_live_on_the_device_that_was_asked_for(sizes, monkeypatch):
    """No machine with a GPU is needed: a fake tensor knows its device, and refuses company from another one.

    The other device is "meta": it takes the paths that are not the CPU's, and has gradients in builds without CUDA.
    """
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    asked = []

    def numpy(tensor):
        assert tensor.device.type == "cpu", f"NumPy takes no tensor on {tensor.device}"
        asked.append(tensor)
        return np.ones(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))

    monkeypatch.setattr(FakeTensor, "numpy", numpy)
    # "meta" has no generator of its own.
    monkeypatch.setattr(torch, "Generator", NoGenerator)
    monkeypatch.setattr(training, "click_chances", lambda _: np.array([0.0, 1.0, 0.0]))
    made = Batches(pictures(), [], QUICK, sizes, rank=0)[0]
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("meta"):
            step = Step(training.InterFormer(sizes), QUICK).train()
        moved = made.to("meta")
        loss, _, _ = step(moved)
        loss.backward()
        step.eval()
        maps = [level.detach()[0].cpu().numpy() for level in step.model.encode(moved.pixels.float())]
        assert step.model.decode_logits(maps, np.zeros((64, 64), np.uint8), (0, 0, 32, 32)).shape == (64, 64)
    assert asked and loss.device.type == "meta"
    assert {parameter.grad.device.type for parameter in step.parameters()} == {"meta"}


def test_in_mixed_precision_every_part_learns_though_clicks_are_simulated_first():
    torch.manual_seed(0)
    step = Step(training.initialise(training.InterFormer(SMALLEST)).train(), QUICK)
    made = next(one for one in map(batch, range(20)) if np.random.default_rng(one.seed).choice(3) > 0)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _, _ = step(made)
    assert loss.dtype == torch.float32
    loss.backward()
    idle = [name for name, p in step.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert idle == []


def test_norms_biases_and_embeddings_are_not_decayed_and_deep_layers_learn_faster():
    step = Step(training.InterFormer(replace(SMALLEST, layers=3)), QUICK)
    groups = training.parameter_groups(step, 3, replace(QUICK, layer_decay=0.5))
    assert sum(p.numel() for g in groups for p in g["params"]) == sum(p.numel() for p in step.parameters())
    place = {id(p): group for group in groups for p in group["params"]}
    backbone = step.model.backbone
    assert place[id(backbone.layers[0].attn.qkv.weight)]["scale"] == 0.5**3
    assert place[id(backbone.layers[2].attn.qkv.weight)]["scale"] == 0.5
    assert place[id(step.model.neck.patch_embed)] == place[id(step.model.decode_head.conv_seg.bias)]
    assert (
        place[id(backbone.pos_embed)]["weight_decay"]
        == 0
        < place[id(backbone.patch_embed.weight)]["weight_decay"]
    )


def test_training_writes_a_model_that_says_where_it_comes_from(folder, tmp_path):
    told = []
    path = train(
        folder,
        tmp_path / "m.safetensors",
        replace(QUICK, steps=20, synthetic=0.5, synthetic_images=2),
        progress=told.append,
    )
    found = read_checkpoint(path)
    assert found.config == SMALLEST
    assert "20 steps" in found.notes["trained"] and "synthetic=0.5" in found.notes["config"]
    assert told[-1].step == 20 and told[-1].seconds_left == pytest.approx(0, abs=1)
    assert list(tmp_path.iterdir()) == [path]  # nothing is left to resume


def test_a_cancelled_run_goes_on_as_if_nothing_had_happened(folder, tmp_path):
    asked = iter([False, False, True, True])
    whole = train(folder, tmp_path / "whole.safetensors", QUICK)
    train(folder, tmp_path / "parts.safetensors", QUICK, cancelled=lambda: next(asked))
    assert not (tmp_path / "parts.safetensors").exists()
    with pytest.raises(ValueError, match="other settings"):
        train(folder, tmp_path / "parts.safetensors", replace(QUICK, lr=1.0))
    with pytest.raises(ValueError, match="other settings"):  # even where its tensors would not fit
        train(folder, tmp_path / "parts.safetensors", replace(QUICK, preset="small"))
    parts = train(folder, tmp_path / "parts.safetensors", QUICK)
    ours, theirs = read_checkpoint(parts).tensors, read_checkpoint(whole).tensors
    for name in ours:
        # Drop path draws from torch's own generator, which a resumed run starts anew; one layer has none.
        torch.testing.assert_close(ours[name], theirs[name], atol=2e-2, rtol=2e-2, msg=name)


def test_a_killed_run_resumes_from_its_state(folder, tmp_path):
    endless, model = replace(QUICK, steps=100_000, save_minutes=0), tmp_path / "m.safetensors"
    script = f"""
from napari_interformer.image import percentiles
from napari_interformer.model import PRESETS, InterFormerConfig
from napari_interformer.train import TrainConfig, train
PRESETS["smallest"] = {SMALLEST!r}
train({str(folder)!r}, {str(model)!r}, {endless!r})
"""
    state = tmp_path / "m.state.pt"
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while not state.exists() and time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
            break
    process.kill()
    process.wait()
    reached = torch.load(state, weights_only=True)["step"]
    assert reached >= 1
    told = []
    train(folder, model, endless, progress=told.append, cancelled=lambda: bool(told))
    assert told[0].step == (reached // 20 + 1) * 20


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_processes_that_make_crops_leave_signals_to_the_main_one(folder, tmp_path):
    """Ctrl+C and torchrun's SIGTERM reach all processes of a group; a lost worker would end the run before it is saved."""
    steps = iter(range(10))

    def cancelled():
        for child in multiprocessing.active_children():
            for number in (signal.SIGTERM, signal.SIGINT):
                os.kill(child.pid, number)
        return next(steps) == 3

    train(folder, tmp_path / "m.safetensors", replace(QUICK, workers=1, steps=10), cancelled=cancelled)
    assert torch.load(tmp_path / "m.state.pt", weights_only=True)["step"] == 3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"preset": "huge"}, "preset takes"),
        ({"dataset": "imagenet"}, "dataset takes"),
        ({"device": "abacus"}, "device takes"),
        ({"precision": "fp16"}, "precision takes"),
        ({"steps": 0}, "steps takes 1 or more; got 0"),
        ({"warmup": 0}, "warmup takes 1 or more"),
        ({"max_clicks": -1}, "max_clicks takes 0 or more"),
        ({"lr": math.nan}, "lr takes 0 or more"),
        ({"validation": 1.5}, "validation takes a number from 0 to 1"),
        ({"validation": 1.0}, "validation 1.0 keeps all 4 from it: give a smaller share"),
        ({"crop_sizes": (100,)}, "crop_sizes takes multiples of 32"),
        ({"window_sizes": ()}, "window_sizes takes numbers above 0"),
        ({"zoom": (2.0, 1.0)}, "zoom takes two numbers above 0, the smaller one first"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, told, folder, tmp_path):
    with pytest.raises(ValueError, match=told):
        train(folder, tmp_path / "m.safetensors", replace(QUICK, **change))


def test_labels_without_an_object_are_told(folder, tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        for file in (folder / name).glob("*.tif"):
            pixels = tifffile.imread(file)
            tifffile.imwrite(tmp_path / name / file.name, pixels if name == "images" else 0 * pixels)
    with pytest.raises(ValueError, match="none of the 3 that are trained on has an object"):
        train(tmp_path, tmp_path / "m.safetensors", QUICK)


def test_a_state_is_gone_on_with_by_the_same_run_only(folder, tmp_path, monkeypatch):
    output = tmp_path / "m.safetensors"
    train(folder, output, QUICK, cancelled=lambda: True)
    with pytest.raises(ValueError, match=r"other settings: lr \(0.001 then, 0.01 now\). Repeat those"):
        train(folder, output, replace(QUICK, lr=0.01))
    with pytest.raises(ValueError, match="a run on other images"), monkeypatch.context() as other:
        other.setattr(Picture, "diameter", 7.0)
        train(folder, output, QUICK)
    trained = train(folder, output, replace(QUICK, save_minutes=1.0)).read_bytes()
    with pytest.raises(FileExistsError, match=r"m\.safetensors is there already; name another output"):
        train(folder, output, QUICK)
    assert output.read_bytes() == trained


def test_a_state_of_another_version_is_told(folder, tmp_path):
    torch.save({"config": "TrainConfig()"}, tmp_path / "m.state.pt")
    with pytest.raises(ValueError, match="written by another version"):
        train(folder, tmp_path / "m.safetensors", QUICK)


def test_synthetic_images_are_made_by_processes_that_end_though_they_are_deaf():
    """In a process of its own, which the shell's handlers leave deaf: a hang must end with the test."""
    script = (
        "from dataclasses import replace\nfrom napari_interformer.cli import between_steps\n"
        "from napari_interformer.train import TrainConfig, synthetic_pictures\n"
        "config = TrainConfig(synthetic_images=18, crop_sizes=(32,), workers=2)\n"
        "with between_steps():\n    made = synthetic_pictures(config)\n"
        "alone = synthetic_pictures(replace(config, workers=0))\n"
        "print(len(made), all((a.labels == b.labels).all() for a, b in zip(made, alone, strict=True)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.stdout.split() == ["18", "True"], run.stderr


@pytest.mark.parametrize(("share", "side"), [(0.1, 32), (0.3, 32), (0.4, 32), (0.8, 64), (9.0, 64)])
def test_windows_are_multiples_of_32(share, side):
    made = batch(window_sizes=(share,))
    assert made.window == side and made.targets.shape[1:] == (side, side)
    assert not (made.objects[:, 2:] % 32).any()


def test_crops_without_objects_are_not_cut_for_ever(monkeypatch):
    monkeypatch.setattr(training, "LEAST_PIXELS", 10_000)
    monkeypatch.setattr(training, "TRIES", 5)
    with pytest.raises(ValueError, match="hardly any has an object of 10000 pixels"):
        batch()


def test_parts_without_a_share_in_the_loss_wait_for_no_gradient():
    step = Step(training.InterFormer(SMALLEST), replace(QUICK, auxiliary=0.0, dense=0.0))
    loss, _, _ = step(batch())
    loss.backward()
    assert all(one.grad is not None for one in step.parameters() if one.requires_grad)


def test_crops_show_objects_as_large_as_asked_for():
    config, rng = replace(QUICK, diameters=(20.0, 20.0), zoom=(0.1, 10.0)), np.random.default_rng(0)
    disks = np.zeros((200, 200), np.int32)
    y, x = np.ogrid[:200, :200]
    for number, centre in enumerate(np.ndindex(4, 4), 1):
        disks[(y - 50 * centre[0] - 25) ** 2 + (x - 50 * centre[1] - 25) ** 2 < 20**2] = number
    picture = Picture((disks > 0).astype(np.uint8) * 200, disks)
    for _ in range(10):
        place = training.draw_place(picture, 64, config, rng)
        labels = training.cut_labels(picture, place)
        assert labels.shape == (64, 64) and training.cut_pixels(picture, place, rng).shape == (3, 64, 64)
        areas = np.unique(labels[labels > 0], return_counts=True)[1]
        assert np.sqrt(4 * areas.max() / np.pi) == pytest.approx(
            20, rel=0.06
        )  # one lies inside whole, whatever the turn


@pytest.mark.parametrize("seed", range(8))
def test_a_crop_is_cut_as_scipy_would(seed, monkeypatch):
    """Pixels and labels lie one on the other, whatever the turn, and black begins where the image ends."""
    monkeypatch.setattr(training, "recolour", lambda colours, *_: colours)
    rng = np.random.default_rng(seed)
    turn = training.warp(rng)
    monkeypatch.setattr(training, "warp", lambda _: turn)
    smooth = gaussian_filter(rng.normal(size=(90, 120)), 4)
    labels = label(smooth > 0)[0]
    picture = Picture((4000 * (smooth - smooth.min())).astype(np.uint16), labels)
    factor = 100 / 90 / 1.25 if seed % 2 else 2.0  # the first holds all of the image
    config = replace(QUICK, zoom=(factor, factor))
    place = training.draw_place(picture, 100, config, rng)
    cut, numbers = training.cut_pixels(picture, place, rng)[0].numpy(), training.cut_labels(picture, place)

    linear = turn / factor
    middle = np.array([part.start for part in place.seen]) + [
        (float(place.grid[0, ..., 1 - axis].mean()) + 1) / 2 * (part.stop - part.start) - 0.5
        for axis, part in enumerate(place.seen)
    ]
    offset = middle - linear @ np.full(2, 99 / 2)
    expected = affine_transform(picture.pixels.astype(float), linear, offset, (100, 100), order=1)
    inside = affine_transform(np.ones((90, 120)), linear, offset, (100, 100), order=1) == 1
    assert np.corrcoef(cut[inside], expected[inside])[0, 1] > 0.99
    truth = affine_transform(picture.labels, linear, offset, (100, 100), order=0)
    same = (numbers[..., None] == numbers[50, 50]) == (truth[..., None] == truth[50, 50])
    assert same[inside].mean() > 0.99 and ((numbers > 0) == (truth > 0))[inside].mean() > 0.99
    outside = affine_transform(np.pad(np.ones((90, 120)), 2), linear, offset + 2, (100, 100), order=1) == 0
    assert outside.any() == (seed % 2 == 1) and not cut[outside].any() and not numbers[outside].any()


def test_an_image_is_stretched_between_its_percentiles_before_it_is_rounded(monkeypatch):
    monkeypatch.setattr(training, "recolour", lambda colours, *_: colours)
    dark = np.random.default_rng(0).normal(300, 20, (96, 96)).astype(np.uint16)
    dark[0, :3] = 60_000
    picture = Picture(dark, np.pad(np.ones((32, 32), int), 32))
    for level in (0.0, 1.0, 2.0, 99.0, 100.0):
        assert np.interp(level, training.LEVELS, picture.quantiles) == pytest.approx(
            percentiles(dark, level, 100 - level)[0]
        )
    rng = np.random.default_rng(1)
    place = training.draw_place(picture, 64, replace(QUICK, zoom=(1.0, 1.0)), rng)
    cut = training.cut_pixels(picture, place, rng)
    assert cut.dtype == torch.uint8 and len(cut.unique()) > 60
    speck = np.zeros((96, 96), np.float32)
    speck[40:42, 40:42], speck[0, 0] = 1e-3, np.nan
    picture = Picture(speck, np.pad(np.ones((32, 32), int), 32))
    assert training.cut_pixels(picture, place, rng).max() > 200
    assert not training.cut_pixels(Picture(0 * speck, picture.labels), place, rng).any()


def test_what_is_made_smaller_shows_no_pattern_that_is_not_there(monkeypatch):
    monkeypatch.setattr(training, "recolour", lambda colours, *_: colours)
    board = (np.indices((200, 200)).sum(0) % 2 * 255).astype(np.uint8)
    picture, rng = Picture(board, np.ones((200, 200), int)), np.random.default_rng(0)
    place = training.draw_place(picture, 64, replace(QUICK, zoom=(0.4, 0.4)), rng)
    cut = training.cut_pixels(picture, place, rng)[:, 2:-2, 2:-2].float()
    assert cut.std() < 8 and 100 < cut.mean() < 155


@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_recoloured_pixels_stay_in_range_and_gray_ones_are_worked_on_once(scale):
    gray, colour = np.random.default_rng(0).random((2, 3, 20, 30), np.float32)
    made = [
        [training.recolour(one, scale, np.random.default_rng(seed)) for seed in range(60)]
        for one in (gray[:1], colour)
    ]
    for out in itertools.chain(*made):
        assert out.dtype == np.float32 and out.shape[1:] == (20, 30) and 0 <= out.min() <= out.max() <= 1
    assert [len({len(out) for out in some}) for some in made] == [2, 2]
    assert np.mean([len(out) == 1 for out in made[0]]) > 0.5  # 3 only with the noise of a colour camera


def test_images_of_rare_kinds_come_more_often():
    many = [replace(picture, kind="many") for picture in pictures(8)] + [replace(pictures(1)[0], kind="few")]
    chances = Batches(many, [], replace(QUICK, balance=1.0), SMALLEST, 0).chances
    assert chances[-1] == pytest.approx(0.5) and chances.sum() == pytest.approx(1)
    assert Batches(many, [], replace(QUICK, balance=0.0), SMALLEST, 0).chances[-1] == pytest.approx(1 / 9)


def test_kinds_and_families_can_be_left_out(folder, monkeypatch):
    kinds = {"0": "tissue", "1": "nuclei", "2": "tissue", "3": "nuclei"}
    load = training.datasets.load
    monkeypatch.setattr(
        training.datasets,
        "load",
        lambda name, root: (replace(sample, kind=kinds[sample.name]) for sample in load(name, root)),
    )
    config = replace(QUICK, validation=0.0, synthetic_images=3, crop_sizes=(64,))
    assert len(training.training_pictures(folder, config)) == 4
    left = replace(config, exclude="tissue, membranes")
    assert len(training.training_pictures(folder, left)) == 2
    asked = []
    monkeypatch.setattr(
        training.samples,
        "synthetic",
        lambda rng, size, exclude: asked.append(exclude) or synthetic(rng, size, "nuclei"),
    )
    assert len(training.synthetic_pictures(left)) == 3
    assert asked == [{"tissue", "membranes"}] * 3
    with pytest.raises(ValueError, match=r"exclude takes kinds of image and synthetic families .*; got cats"):
        training.training_pictures(folder, replace(config, exclude="cats"))


def test_numbers_close_to_zero_are_themselves_again_after_training(folder, tmp_path):
    train(folder, tmp_path / "model.safetensors", QUICK)
    assert np.float64(5e-324) * 1.0 > 0
