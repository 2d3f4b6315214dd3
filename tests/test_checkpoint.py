"""Model files, good and bad."""

from __future__ import annotations

import copy
import json
import pickle
import zipfile
from dataclasses import asdict

import numpy as np
import pytest
import safetensors.torch
import torch

from napari_interformer import checkpoint
from napari_interformer.checkpoint import (
    build,
    infer_config,
    load_model,
    models,
    new_name,
    read_checkpoint,
    save_model,
)
from napari_interformer.model import PRESETS

WHOLE = ("config", "notes")  # of a file's metadata


@pytest.fixture
def reference(shared):
    return shared / "parity" / "square.pth"


def test_a_model_comes_back_from_safetensors_with_its_configuration(small_model, tmp_path):
    path = save_model(small_model, tmp_path / "m.safetensors", {"trained": "never"})
    again = load_model(path)
    assert again.config == small_model.config
    assert read_checkpoint(path).notes == {"trained": "never"}
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3)).astype(np.float32)
    for ours, theirs in zip(again.encode_pixels(pixels), small_model.encode_pixels(pixels), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert again.fingerprint == small_model.fingerprint


def test_half_precision_halves_the_file(small_model, tmp_path):
    full = save_model(small_model, tmp_path / "full.safetensors").stat().st_size
    half = save_model(small_model, tmp_path / "half.safetensors", half=True)
    assert half.stat().st_size < 0.6 * full
    again = load_model(half)
    assert next(again.parameters()).dtype is torch.float32
    # Saved again, nothing more is lost.
    assert (
        load_model(save_model(again, tmp_path / "n.safetensors", half=True)).fingerprint == again.fingerprint
    )


def test_half_precision_makes_infinity_of_no_weight(small_model, tmp_path):
    model = copy.deepcopy(small_model)
    with torch.no_grad():
        model.decode_head.conv_seg.bias[0] = 7e4
    again = load_model(save_model(model, tmp_path / "half.safetensors", half=True))
    assert again.decode_head.conv_seg.bias[0] == 7e4


def test_a_reference_checkpoint_loads_with_and_without_the_parallel_prefix(reference, tmp_path):
    content = torch.load(reference, weights_only=True)
    content["state_dict"] = {f"module.{name}": tensor for name, tensor in content["state_dict"].items()}
    content["optimizer"] = {"state": {0: {"step": 1}}, "param_groups": [{"lr": 1e-4}]}
    torch.save(content, tmp_path / "parallel.pth")
    plain, parallel = load_model(reference), load_model(tmp_path / "parallel.pth")
    assert plain.fingerprint == parallel.fingerprint
    assert "embed" not in str(read_checkpoint(reference)) and "width 48" in str(read_checkpoint(reference))
    assert read_checkpoint(tmp_path / "parallel.pth").notes["prefix"] == "module."


@pytest.mark.parametrize("preset", ["light", "tiny"])
def test_released_names_and_shapes_load_and_give_the_preset(preset, shared, tmp_path):
    shapes = json.loads((shared / "parity" / f"interformer_{preset}_state_dict.json").read_text())
    state = {
        name: torch.zeros(shape, dtype=torch.long if name.endswith(("index", "tracked")) else torch.float32)
        for name, shape in shapes.items()
    }
    torch.save({"state_dict": state, "meta": {"iter": 320000}}, tmp_path / "released.pth")
    model = build(read_checkpoint(tmp_path / "released.pth"))
    assert model.config == PRESETS[preset]


def test_a_converted_model_gives_the_same_masks(reference, tmp_path):
    model = load_model(reference)
    again = load_model(save_model(model, tmp_path / "m.safetensors"))
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 128, 128, 3)).astype(np.float32)
    states = np.full((128, 128), 2, np.uint8)
    states[50:60, 50:60] = 4
    masks = [m.decode_logits([x[0] for x in m.encode_pixels(pixels)], states) > 0 for m in (model, again)]
    np.testing.assert_array_equal(masks[0], masks[1])


class Evil:
    def __reduce__(self):
        return print, ("code from a file was run",)


def bad_files(folder, reference):
    (folder / "text.pth").write_text("this is not a checkpoint")
    (folder / "empty.pth").write_bytes(b"")
    (folder / "cut.pth").write_bytes(reference.read_bytes()[:500_000])
    with (folder / "code.pth").open("wb") as file:
        pickle.dump({"state_dict": Evil()}, file)
    torch.save({"state_dict": Evil()}, folder / "code-zip.pth")
    torch.save({"weights": [1, 2, 3]}, folder / "no-tensors.pth")
    torch.save({"state_dict": {"fc.weight": torch.zeros(3, 3)}}, folder / "another-network.pth")
    content = torch.load(reference, weights_only=True)
    del content["state_dict"]["neck.norm0.weight"]
    torch.save(content, folder / "missing.pth")
    content["state_dict"]["neck.norm0.weight"] = torch.zeros(9)
    torch.save(content, folder / "shape.pth")
    save_model(load_model(reference), folder / "whole.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "whole.safetensors").read_bytes()[:300_000])
    safetensors.torch.save_file({"a": torch.zeros(2)}, folder / "no-config.safetensors")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("text.pth", "not a PyTorch checkpoint"),
        ("empty.pth", "not a PyTorch checkpoint"),
        ("cut.pth", "cut short"),
        ("code.pth", "not loaded"),
        ("code-zip.pth", "may run code"),
        ("no-tensors.pth", "no state_dict"),
        ("another-network.pth", "not an InterFormer checkpoint"),
        ("missing.pth", "1 missing"),
        ("shape.pth", "1 of another shape"),
        ("cut.safetensors", "not a complete safetensors file"),
        ("no-config.safetensors", "without an InterFormer configuration"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(name, told, reference, tmp_path, capsys):
    bad_files(tmp_path, reference)
    with pytest.raises(ValueError, match=told) as caught:
        load_model(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert "code from a file" not in capsys.readouterr().out


def test_numbers_of_numpy_in_the_notes_of_a_checkpoint_are_no_code(reference, tmp_path, capsys):
    notes = {"iter": np.int64(3), "best": np.float64(0.5), "palette": np.zeros((3, 4), np.uint8)}
    content = torch.load(reference, weights_only=True)
    torch.save({**content, "meta": notes}, tmp_path / "notes.pth")
    assert load_model(tmp_path / "notes.pth").fingerprint == load_model(reference).fingerprint
    torch.save({**content, "meta": {"best": np.float64(0.5), "more": Evil()}}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="may run code"):
        load_model(tmp_path / "code.pth")
    assert "code from a file" not in capsys.readouterr().out


def test_a_checkpoint_that_unpacks_to_more_than_it_is_is_refused_before_it_does(tmp_path):
    torch.save({"state_dict": {"x": torch.zeros(1000)}}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain:
        with zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as packed:
            for record in plain.infolist():
                packed.writestr(record.filename, plain.read(record))
    with pytest.raises(ValueError, match="not a PyTorch checkpoint"):
        read_checkpoint(tmp_path / "small.pth")


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"config": "{"}, "cannot be read"),
        ({"config": "[1, 2]"}, "cannot be read"),
        ({"notes": "7"}, "cannot be read"),
        ({"colour": 1}, "newer version of the package .it sets colour"),
        ({"layers": "two"}, "layers takes whole numbers above 0 to 65536; got 'two'"),
        ({"layers": None}, "layers takes"),
        ({"layers": 1000}, "fewer blocks than there are tensors"),
        ({"embed_dim": 10**12}, "embed_dim takes"),
        ({"heads": True}, "heads takes"),
        ({"heads": 5}, "a divisor of embed_dim, 24; got 5"),
        ({"window": 0}, "window takes"),
        ({"window": 100}, "multiples of 32; got 100"),
        ({"patch_size": 12}, "8 or 16"),
        ({"channels": 8}, "channels takes 4 whole numbers"),
        ({"channels": [8, 16, 32]}, "channels takes 4"),
        ({"stored_channels": [8, 8]}, "stored_channels takes 0 or 4"),
        ({"channels": [8, 16, 33, 64]}, "imsa_heads takes divisors"),
        ({"coarse_depths": [9, 1, 1, 1]}, "at most depths"),
        ({"coarse_depths": [0, 1, 1, 1]}, "coarse_depths takes"),
        ({"head_norm": "none"}, "batch or group"),
        ({"zoom_expansion": float("nan")}, "zoom_expansion takes numbers"),
        ({"zoom_expansion": 0.5}, "1 or more"),
        ({"diameters": [60, 20]}, "the smaller one first"),
        ({"diameters": [-1, float("inf")]}, "diameters takes"),
        ({"head_width": 9}, "of another shape"),
    ],
)
def test_an_odd_configuration_is_refused_in_one_sentence(metadata, told, small_model, tmp_path):
    config = json.dumps(asdict(small_model.config) | {k: v for k, v in metadata.items() if k not in WHOLE})
    kept = {"config": config} | {k: v for k, v in metadata.items() if k in WHOLE}
    safetensors.torch.save_file(small_model.state_dict(), tmp_path / "odd.safetensors", metadata=kept)
    with pytest.raises(ValueError, match=told) as caught:
        load_model(tmp_path / "odd.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "tensor", "told"),
    [
        (7, torch.zeros(1), "no state_dict"),
        ("backbone.patch_embed.weight", torch.zeros(24), "do not fit together"),
        ("backbone.pos_embed", torch.zeros(5), "do not fit together"),
        ("neck.stages.0.blocks.0.mlp.0.weight", torch.zeros(8, 0, 1, 1), "do not fit together"),
        ("backbone.pos_embed", torch.zeros(1, 1, 24), "window takes"),
        ("neck.norm0.weight", torch.zeros(8, dtype=torch.int), "1 of another shape or type"),
    ],
)
def test_a_reference_of_odd_tensors_is_refused_in_one_sentence(name, tensor, told, small_model, tmp_path):
    state = small_model.state_dict()
    torch.save({"state_dict": state}, tmp_path / "fine.pth")
    assert load_model(tmp_path / "fine.pth").config.embed_dim == small_model.config.embed_dim
    assert name in state or name == 7
    torch.save({"state_dict": state | {name: tensor}}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=told) as caught:
        load_model(tmp_path / "odd.pth")
    assert "\n" not in str(caught.value)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(FileNotFoundError, match="default"):
        load_model("no-such-model")


def test_the_bundled_model_is_there_and_small():
    path = models()["default"]
    assert path.stat().st_size < 20e6
    assert load_model().config.window == 256


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("my nuclei", "my nuclei"),
        ("Zellen, Tag 3.safetensors", "Zellen- Tag 3"),
        ("../../etc/passwd", "etc-passwd"),
        ("細胞", "細胞"),
        ("x" * 200, "x" * 50),
        ("", "model"),
        ("default", "default-2"),
        ("Mine", "Mine-3"),
    ],
)
def test_a_new_model_gets_a_name_that_is_free_and_a_file_can_have(wanted, name, monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, "user_models", lambda: tmp_path)
    for taken in ("mine", "mine-2"):
        (tmp_path / f"{taken}.safetensors").touch()
    assert new_name(wanted) == name


def test_folders_dead_links_and_what_macos_leaves_are_no_models(small_model, monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, "user_models", lambda: tmp_path)
    save_model(small_model, tmp_path / "mine.safetensors")
    (tmp_path / "._mine.safetensors").write_bytes(b"\0\5\x16\7")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    assert {*checkpoint.models()} == {"default", "mine"}


def test_what_is_no_model_is_not_saved(small_model, tmp_path):
    with pytest.raises(TypeError, match="in this order; got str for the model"):
        save_model(str(tmp_path / "m.safetensors"), small_model)
    assert not list(tmp_path.iterdir())


def test_a_model_takes_no_image_s_place(small_model, tmp_path):
    (tmp_path / "cells.tif").write_bytes(b"pixels")
    with pytest.raises(ValueError, match=r"as \.safetensors; got cells\.tif: give a name that ends so"):
        save_model(small_model, tmp_path / "cells.tif")
    assert (tmp_path / "cells.tif").read_bytes() == b"pixels"


def test_a_model_is_not_saved_nowhere(small_model):
    with pytest.raises(TypeError, match=r"takes the path of a \.safetensors file; got None: say where"):
        save_model(small_model, None)


def test_a_model_in_the_home_folder_is_found(small_model, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))  # a shell leaves ~ alone after an equals sign
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    save_model(small_model, tmp_path / "mine.safetensors")
    assert load_model("~/mine.safetensors").fingerprint == small_model.fingerprint


def test_what_is_neither_a_name_nor_a_path_is_no_model():
    with pytest.raises(TypeError, match="got int"):
        load_model(5)


def test_the_sizes_of_a_reference_are_read_off_its_tensors(small_model):
    assert infer_config(small_model.state_dict()) == small_model.config
