"""Training: steps that learn, and a run that is killed and goes on."""

from __future__ import annotations

import contextlib
import errno
import json
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
from torch.optim.optimizer import register_optimizer_step_pre_hook

from learning import QUICK, SMALLEST, batch, pictures, write_folder
from napari_interformer import train as training
from napari_interformer.checkpoint import load_model, read_checkpoint, save_model
from napari_interformer.crops import Batches, Picture
from napari_interformer.model import PRESETS, InterFormer
from napari_interformer.train import Step, train


@pytest.fixture(autouse=True)
def _smallest(monkeypatch):
    monkeypatch.setitem(PRESETS, "smallest", SMALLEST)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data"))


def test_a_few_steps_on_one_batch_lower_the_loss():
    torch.manual_seed(0)
    model = training.initialise(InterFormer(SMALLEST)).train()
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
    monkeypatch.setattr("napari_interformer.loss.click_chances", lambda _: np.array([0.0, 1.0, 0.0]))
    made = Batches(pictures(), [], QUICK, sizes.click_window, rank=0)[0]
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("meta"):
            step = Step(InterFormer(sizes), QUICK).train()
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
    step = Step(training.initialise(InterFormer(SMALLEST)).train(), QUICK)
    made = next(one for one in map(batch, range(20)) if np.random.default_rng(one.seed).choice(3) > 0)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _, _ = step(made)
    assert loss.dtype == torch.float32
    loss.backward()
    idle = [name for name, p in step.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert idle == []


def test_norms_biases_and_embeddings_are_not_decayed_and_deep_layers_learn_faster():
    step = Step(InterFormer(replace(SMALLEST, layers=3)), QUICK)
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
        assert torch.equal(ours[name], theirs[name]), name


def test_a_state_that_is_cut_short_is_named_and_a_full_disk_ends_no_run(
    folder, tmp_path, monkeypatch, caplog
):
    (tmp_path / "m.state.pt").write_bytes(b"PK\3\4 cut short")
    with pytest.raises(ValueError, match=r"m\.state\.pt cannot be read"):
        train(folder, tmp_path / "m.safetensors", QUICK)

    def full(*_):
        raise RuntimeError("enforce fail at inline_container.cc: no space")

    monkeypatch.setattr(torch, "save", full)
    path = train(folder, tmp_path / "run-0.1.safetensors", replace(QUICK, save_minutes=0))
    assert path.exists() and "run-0.1.state.pt could not be written" in caplog.text
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.state.pt", path.name]


def test_a_run_that_diverges_is_told_and_saves_nothing(folder, tmp_path, monkeypatch):
    told = r"by step {} they no longer were, and are not saved: give a lower lr than 1e\+30"
    for step, change in ((4, {}), (20, {"steps": 100}), (1, {"save_minutes": 0})):
        with pytest.raises(ValueError, match=told.format(step)):
            train(folder, tmp_path / "m.safetensors", replace(QUICK, lr=1e30, **change))
    assert list(tmp_path.iterdir()) == []
    train(folder, tmp_path / "m.safetensors", QUICK, cancelled=lambda: True)
    before = (tmp_path / "m.state.pt").read_bytes()
    monkeypatch.setattr(training, "pace", lambda *_: math.nan)
    asked = iter([False, True])
    for cancelled in (None, lambda: next(asked)):
        with pytest.raises(ValueError, match="give a lower lr"):
            train(folder, tmp_path / "m.safetensors", QUICK, cancelled=cancelled)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_one_process_saves_its_model_whatever_number_a_cluster_gives_it(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert train(folder, tmp_path / "m.safetensors", QUICK).exists()


def test_the_learning_rate_rises_and_then_falls_with_what_is_done():
    assert [training.pace(step, 4, 0) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert [training.pace(9, 4, done) for done in (0, 0.25, 1)] == [1, 0.75, 0]
    assert training.pace(1, 4, 0.5) == 0.25


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


def test_a_model_in_the_home_folder_is_not_replaced(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "m.safetensors").write_bytes(b"ten hours of work")
    with pytest.raises(FileExistsError):
        train(folder, "~/m.safetensors", QUICK)
    assert (tmp_path / "m.safetensors").read_bytes() == b"ten hours of work"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_processes_that_make_crops_leave_signals_to_the_main_one(folder, tmp_path):
    """They reach all processes of a group; a lost worker would end the run before it is saved."""
    steps = iter(range(10))

    def cancelled():
        for child in multiprocessing.active_children():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
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
        ({"lr": math.inf}, "lr takes 0 or more, and finite; got inf"),
        ({"steps": 1e4}, r"steps takes a whole number; got 10000\.0"),
        ({"crop_sizes": 128}, "crop_sizes takes multiples of 32; got 128"),
        ({"crop_sizes": (128.0,)}, r"crop_sizes takes multiples of 32; got 128\.0"),
        ({"diameters": (9.0, 20.0, 60.0)}, r"diameters takes two numbers .* got 9\.0, 20\.0, 60\.0"),
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
    with pytest.raises(ValueError, match=r"none to train on \(3\) has an object"):
        train(tmp_path, tmp_path / "m.safetensors", QUICK)


def test_a_state_is_gone_on_with_by_the_same_run_only(folder, tmp_path, monkeypatch):
    output = tmp_path / "m.safetensors"
    train(folder, output, QUICK, cancelled=lambda: True)
    with pytest.raises(ValueError, match=r"other settings: lr \(0.001 then, 0.01 now\). Give those again"):
        train(folder, output, replace(QUICK, lr=0.01))
    with pytest.raises(ValueError, match="a run on other images"), monkeypatch.context() as other:
        other.setattr(Picture, "diameter", 7.0)
        train(folder, output, QUICK)
    trained = train(folder, output, replace(QUICK, save_minutes=1.0)).read_bytes()
    with pytest.raises(FileExistsError, match=r"m\.safetensors already exists: name another output"):
        train(folder, output, QUICK)
    assert output.read_bytes() == trained


def test_a_model_beside_the_state_of_another_run_is_not_replaced(folder, tmp_path):
    output = tmp_path / "m.safetensors"
    train(folder, output, QUICK, cancelled=lambda: True)
    output.write_text("made by somebody meanwhile")
    with pytest.raises(FileExistsError, match=r"or delete it to continue from m\.state\.pt"):
        train(folder, output, QUICK)
    assert output.read_text() == "made by somebody meanwhile"


@pytest.mark.parametrize(
    ("seen", "kept"), [((9.0, 60.0), (24, 60)), ((80.0, 200.0), (24, 200)), ((5.0, 15.0), (15, 15))]
)
def test_a_session_shows_a_model_objects_as_large_as_those_that_it_learnt_from(
    seen, kept, folder, tmp_path, monkeypatch
):
    monkeypatch.setitem(PRESETS, "smallest", replace(SMALLEST, diameters=(24.0, 60.0)))
    train(folder, tmp_path / "m.safetensors", replace(QUICK, steps=1, diameters=seen, zoom=(0.1, 40.0)))
    assert load_model(tmp_path / "m.safetensors").config.diameters == kept


def test_what_is_saved_keeps_a_share_of_the_model_it_began_with(folder, tmp_path):
    begun = train(folder, tmp_path / "begun.safetensors", replace(QUICK, steps=2))
    found = {
        kept: load_model(
            train(
                folder,
                tmp_path / f"{kept}.safetensors",
                replace(QUICK, lr=0.1, initial=str(begun), kept=kept),
            )
        ).state_dict()
        for kept in (0.0, 0.5, 1.0)
    }
    before = {name: old for name, old in load_model(begun).state_dict().items() if old.is_floating_point()}
    for name, old in before.items():
        torch.testing.assert_close(found[1.0][name], old)
        torch.testing.assert_close(found[0.5][name], (found[0.0][name] + old) / 2, rtol=1e-2, atol=1e-3)
    assert max((found[0.0][name] - old).abs().max() for name, old in before.items()) > 1e-3
    with pytest.raises(ValueError, match=r"got 0\.5 without initial: name a model"):
        train(folder, tmp_path / "m.safetensors", replace(QUICK, kept=0.5))


def test_a_run_whose_first_model_is_another_by_now_is_not_resumed(folder, tmp_path):
    begun = train(folder, tmp_path / "begun.safetensors", replace(QUICK, steps=1))
    config = replace(QUICK, steps=2, initial=str(begun), kept=0.5)
    train(folder, tmp_path / "m.safetensors", config, cancelled=lambda: True)
    mine = begun.read_bytes()
    begun.unlink()
    train(folder, begun, replace(QUICK, steps=1, seed=7))
    with pytest.raises(ValueError, match=r"m\.state\.pt is the state of a run from another model"):
        train(folder, tmp_path / "m.safetensors", config)
    begun.write_bytes(mine)
    assert train(folder, tmp_path / "m.safetensors", config).exists()


@pytest.mark.parametrize("part", ["step", "average", "step_module"])
def test_a_state_that_lacks_something_is_told(folder, tmp_path, part):
    train(folder, tmp_path / "m.safetensors", QUICK, cancelled=lambda: True)
    state = torch.load(tmp_path / "m.state.pt", weights_only=True)
    state[part] = {}
    if part == "step":
        del state[part]
    torch.save(state, tmp_path / "m.state.pt")
    with pytest.raises(ValueError, match=r"m\.state\.pt cannot be read .*delete it to start again\.$"):
        train(folder, tmp_path / "m.safetensors", QUICK)


def test_a_state_that_cannot_be_saved_takes_no_room(folder, tmp_path, monkeypatch):
    real = torch.save

    def full(state, path):
        real(state, path)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    train(folder, tmp_path / "m.safetensors", replace(QUICK, save_minutes=1e-9))
    assert [path.name for path in tmp_path.glob("m.*")] == ["m.safetensors"]


def test_a_state_is_not_blamed_for_a_device_without_room(folder, tmp_path, monkeypatch):
    train(folder, tmp_path / "m.safetensors", QUICK, cancelled=lambda: True)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", full)
    with pytest.raises(torch.OutOfMemoryError):
        train(folder, tmp_path / "m.safetensors", QUICK)


def test_what_a_kill_left_of_a_state_goes_with_the_next_one(folder, tmp_path):
    (tmp_path / "m.state.pt.part").write_bytes(b"half")
    train(folder, tmp_path / "m.safetensors", QUICK)
    assert not list(tmp_path.glob("m.state*"))


def test_a_run_from_before_a_setting_was_there_goes_on(folder, tmp_path):
    train(folder, tmp_path / "m.safetensors", QUICK, cancelled=lambda: True)
    state = torch.load(tmp_path / "m.state.pt", weights_only=True)
    settings = json.loads(state["settings"])
    del settings["layers"]
    torch.save({**state, "settings": json.dumps(settings)}, tmp_path / "m.state.pt")
    assert train(folder, tmp_path / "m.safetensors", QUICK).exists()


def test_crops_smaller_than_what_the_network_sees_are_told(folder, tmp_path, caplog):
    train(folder, tmp_path / "m.safetensors", replace(QUICK, steps=1))
    assert not caplog.messages
    wide = replace(QUICK, steps=1, crop_sizes=(32,), pixels_per_step=32**2)
    train(folder, tmp_path / "n.safetensors", wide)
    (told,) = caplog.messages
    assert f"sees at once, {SMALLEST.window} pixels" in told and "--crop-sizes" in told


def test_a_name_that_no_model_has_is_told_before_the_training(tmp_path):
    with pytest.raises(ValueError, match=r"as \.safetensors; got my-model\.pt: give a name that ends so"):
        train(tmp_path / "nowhere", tmp_path / "my-model.pt", QUICK)


def test_a_state_of_another_version_is_told(folder, tmp_path):
    torch.save({"config": "TrainConfig()"}, tmp_path / "m.state.pt")
    with pytest.raises(ValueError, match="written by another version"):
        train(folder, tmp_path / "m.safetensors", QUICK)


def test_the_encoder_is_not_taught_what_counts_for_nothing():
    made = batch()
    known = torch.where(made.labels > 0, 1, -1).to(made.labels.dtype)  # one object, and nothing else is known
    made = replace(made, labels=known, objects=made.objects.index_fill(1, torch.tensor(1), 1))
    torch.manual_seed(0)
    step = Step(InterFormer(SMALLEST), QUICK).eval()
    torch.nn.init.zeros_(step.dense_head[0].weight)
    with torch.no_grad():
        object_, border = step.dense_head[0].bias.chunk(2)
        object_.fill_(100.0), border.fill_(-100.0)
        with_dense, _, _ = step(made)
        step.config = replace(QUICK, dense=0.0)
        without, _, _ = step(made)
    assert with_dense.item() == pytest.approx(without.item(), abs=1e-6)


def test_a_short_run_forgets_the_weights_it_began_with_and_a_long_one_averages_as_asked():
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.requires_grad_(False)
    average, began, twice = training.averaged(model, 0.9), [], None
    for step in range(200):
        model.weight.fill_(float(step == 0))
        if step == 50:  # a resumed run counts on
            twice = training.averaged(model, 0.9)
            twice.load_state_dict(average.state_dict())
        for one in (average, twice):
            if one is not None:
                one.update_parameters(model)
        began.append(average.module.weight.item())
    assert began[:3] == pytest.approx([1, 2 / 11, 2 / 11 * 3 / 12])
    assert began[20] < 1e-6 < 0.9**20  # what a decay of 0.9 from the start would leave
    assert began[150] / began[149] == pytest.approx(0.9)
    assert torch.equal(twice.module.weight, average.module.weight)


def test_processes_whose_clocks_differ_agree_when_to_stop_and_how_fast_to_learn(monkeypatch):
    told = []

    def with_another(mine, _):
        told.append(mine.clone())
        mine.copy_(torch.maximum(mine, torch.tensor([0.0, 0.1 + 0.2], dtype=mine.dtype)))

    monkeypatch.setattr(torch.distributed, "all_reduce", with_another)
    cpu = torch.device("cpu")
    assert training.agreed(0, 0.25, cpu, world=2) == (0, 0.1 + 0.2)  # to the last bit
    assert training.agreed(training.CANCELLED, 0.5, cpu, world=2) == (training.CANCELLED, 0.5)
    assert len(told) == 2 and training.agreed(1, 1.0, cpu, world=1) == (1, 1.0) and len(told) == 2


def test_parts_without_a_share_in_the_loss_wait_for_no_gradient():
    step, used = Step(InterFormer(SMALLEST), replace(QUICK, auxiliary=0.0, dense=0.0)), []
    for part in (step.dense_head, step.model.auxiliary_head):
        part.register_forward_hook(lambda *_: used.append(1))
    loss, _, _ = step(batch())
    loss.backward()
    assert all(one.grad is not None for one in step.parameters() if one.requires_grad)
    assert not used


def test_numbers_close_to_zero_are_themselves_again_after_training(folder, tmp_path):
    train(folder, tmp_path / "model.safetensors", QUICK)
    assert np.float64(5e-324) * 1.0 > 0


@pytest.fixture
def at_each_step():
    """Return a list that gets the learning rate, and the norm of the gradient, of each step of any optimiser."""
    told = []

    def tell(optimizer, *_):
        (group, *_) = optimizer.param_groups
        gradients = [p.grad for one in optimizer.param_groups for p in one["params"] if p.grad is not None]
        told.append((group["lr"], float(torch.nn.utils.get_total_norm(gradients))))

    hook = register_optimizer_step_pre_hook(tell)
    yield told
    hook.remove()


def test_the_learning_rate_warms_up_and_then_falls_to_nought_at_the_end(folder, tmp_path, at_each_step):
    train(folder, tmp_path / "m.safetensors", replace(QUICK, lr=0.008, warmup=2))
    assert [rate for rate, _ in at_each_step] == pytest.approx([0.004, 0.006, 0.004, 0.002])


def test_no_step_has_a_gradient_longer_than_1(folder, tmp_path, at_each_step):
    train(folder, tmp_path / "m.safetensors", replace(QUICK, steps=2, dense=1e4))
    assert [norm for _, norm in at_each_step] == pytest.approx([1, 1], rel=1e-3)


def test_the_minutes_before_a_run_was_interrupted_count(folder, tmp_path):
    output, hour = tmp_path / "m.safetensors", replace(QUICK, minutes=60.0)
    asked = iter([False, True])
    train(folder, output, hour, cancelled=lambda: next(asked))
    state = torch.load(tmp_path / "m.state.pt", weights_only=True)
    torch.save(state | {"seconds": 3600.0}, tmp_path / "m.state.pt")
    assert "1 steps, 1.00 h" in read_checkpoint(train(folder, output, hour)).notes["trained"]


def test_what_norms_have_seen_is_averaged_like_weights():
    model = torch.nn.BatchNorm1d(1)
    average = training.averaged(model, 0.9)
    for mean in (0.0, 1.0):
        model.running_mean.fill_(mean)
        average.update_parameters(model)
    assert average.module.running_mean.item() == pytest.approx(9 / 11)


def test_the_largest_vote_counts(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda _, operator: asked.append(operator))
    training.agreed(0, 0.25, torch.device("cpu"), world=2)
    assert asked == [torch.distributed.ReduceOp.MAX]


def test_position_biases_are_not_decayed():
    step = Step(InterFormer(SMALLEST), QUICK)
    attention = step.model.backbone.layers[0].attn
    decay = {
        id(p): group["weight_decay"]
        for group in training.parameter_groups(step, 1, QUICK)
        for p in group["params"]
    }
    assert decay[id(attention.relative_position_bias_table)] == 0 < decay[id(attention.qkv.weight)]


def test_a_deeper_network_starts_with_the_same_answers_and_learns_with_all_of_it(folder, tmp_path):
    torch.manual_seed(0)
    begun = save_model(training.initialise(InterFormer(SMALLEST)), tmp_path / "begun.safetensors")
    before, grown = load_model(begun), training.deeper(load_model(begun), SMALLEST.layers + 2)
    assert grown.config.layers == SMALLEST.layers + 2
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for one, other in zip(before.encode(pixels), grown.encode(pixels), strict=True):
            assert torch.equal(one, other)
    output = train(
        folder,
        tmp_path / "m.safetensors",
        replace(QUICK, initial=str(begun), layers=SMALLEST.layers + 2, lr=0.01),
    )
    trained = load_model(output)
    assert (
        trained.config.layers == SMALLEST.layers + 2 and trained.backbone.layers[-1].gamma_1.abs().min() > 0
    )
    with pytest.raises(ValueError, match="layers cannot be taken away"):  # before any image is asked for
        train(tmp_path / "nowhere", tmp_path / "n.safetensors", replace(QUICK, initial=str(output), layers=1))
    with pytest.raises(ValueError, match="leave one of them out"):
        train(folder, tmp_path / "n.safetensors", replace(QUICK, initial=str(begun), layers=9, kept=0.5))


def test_a_preset_may_have_more_layers():
    model = training.at_the_start(replace(QUICK, layers=PRESETS[QUICK.preset].layers + 1))
    assert model.config == replace(PRESETS[QUICK.preset], layers=PRESETS[QUICK.preset].layers + 1)
