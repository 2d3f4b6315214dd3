"""The network against the reference's own numbers."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from napari_interformer import encoder
from napari_interformer.checkpoint import build, load_model, read_checkpoint, renamed
from napari_interformer.decoder import pooled_length
from napari_interformer.encoder import Attention, Layer
from napari_interformer.model import (
    PRESETS,
    InterFormer,
    decoding_device,
    normalise,
    resolve_device,
    resolve_devices,
)
from napari_interformer.reference import blank, draw_click, fold, region, sure

TOLERANCE = 1e-3


def worst(ours: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


@pytest.fixture(params=["square", "wide"])
def case(request, shared):
    folder = shared / "parity"
    with np.load(folder / f"{request.param}.npz") as arrays:
        numbers = dict(arrays)
    return (
        build(read_checkpoint(folder / f"{request.param}.pth")),
        numbers,
        json.loads((folder / f"{request.param}.json").read_text()),
    )


def test_features_agree_with_the_reference(case):
    model, numbers, _ = case
    maps = model.encode_pixels(numbers["image"][None].astype(np.float32))
    for i, level in enumerate(maps):
        error = worst(level[0], numbers[f"feature_{i}"])
        print(f"feature {i}: {error:.1e} of the largest value")
        assert error < TOLERANCE


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_logits_masks_reference_labels_and_regions_agree_with_the_reference(case, threads):
    model, numbers, config = case
    image = torch.from_numpy(numbers["image"][None].astype(np.float32)).permute(0, 3, 1, 2)
    height, width = numbers["image"].shape[:2]
    with torch.inference_mode():
        prepared = model.prepare(model.encode(normalise(image)))
    reference, mask = blank(numbers["ref_label_1"].shape), None
    for n, (y, x, positive) in enumerate(numbers["clicks"], 1):
        reference = draw_click(
            reference, y, x, bool(positive), config["inner_radius"], config["outer_radius"]
        )
        np.testing.assert_array_equal(reference, numbers[f"ref_label_{n}"])
        roi = None
        if f"roi_{n}" in numbers:
            zoom = config["zoom"]
            roi = region(mask | sure(reference), expansion=zoom["expansion_ratio"], min_size=zoom["min_size"])
            assert tuple(roi) == tuple(numbers[f"roi_{n}"])
        with torch.inference_mode():
            logits = model.decode(prepared, torch.from_numpy(reference)[None], roi)[0].numpy()
        error = worst(logits, numbers[f"logits_{n}"])
        print(f"logits after click {n}: {error:.1e} of the largest value")
        assert error < TOLERANCE
        mask = model.decode_logits(prepared, reference, roi) > 0
        different = mask[:height, :width] != numbers[f"mask_{n}"]
        print(f"mask after click {n}: {different.sum()} of {different.size} pixels differ")
        assert not different.any()
        reference = fold(reference, mask)
        np.testing.assert_array_equal(reference, numbers[f"ref_label_after_{n}"])


def test_logits_in_a_partial_region_agree_with_the_reference(case):
    model, numbers, _ = case
    maps = [torch.from_numpy(numbers[f"feature_{i}"])[None] for i in range(4)]
    with torch.inference_mode():
        logits = model.decode(
            maps, torch.from_numpy(numbers["ref_label_1"])[None], tuple(numbers["partial_roi"])
        )
    error = worst(logits[0].numpy(), numbers["partial_roi_logits"])
    print(f"logits in a partial region: {error:.1e} of the largest value")
    assert error < TOLERANCE


def test_pixels_and_states_of_another_size_than_the_network_takes_are_refused(small_model):
    for shape in ((1, 3, 100, 128), (1, 3, 128, 100), (3, 128, 128), (1, 128, 128, 3)):
        with pytest.raises(
            ValueError, match=r"encode takes \(B, 3, H, W\) with H and W multiples of 32; got"
        ):
            small_model.encode(torch.zeros(shape))
    maps = small_model.encode(torch.zeros(1, 3, 128, 128))
    for shape in ((1, 4, 4), (1, 128, 64), (128, 128)):
        with pytest.raises(
            ValueError, match=r"reference must be of the size of the maps, \(1, 128, 128\); got"
        ):
            small_model.decode(maps, torch.zeros(shape, dtype=torch.uint8))
    reference = torch.zeros(1, 128, 128, dtype=torch.uint8)
    for roi in ((0, 0, 160, 32), (0, 0, 40, 32), (32, 0, 32, 32), (-32, 0, 32, 32)):
        with pytest.raises(ValueError, match=r"multiples of 32 inside the window \(128, 128\); got"):
            small_model.decode(maps, reference, roi)
    assert small_model.decode(maps, reference, (0, 32, 128, 96)).shape == (1, 2, 128, 128)


@pytest.mark.parametrize("preset", ["light", "tiny"])
def test_presets_have_the_released_names_and_shapes(preset, shared):
    released = json.loads((shared / "parity" / f"interformer_{preset}_state_dict.json").read_text())
    with torch.device("meta"):
        ours = InterFormer(PRESETS[preset]).state_dict()
    assert {name: list(tensor.shape) for name, tensor in ours.items()} == {
        renamed(name): shape
        for name, shape in released.items()
        if not name.endswith("relative_position_index")
    }


def test_the_light_preset_has_the_papers_sizes():
    with torch.device("meta"):
        model = InterFormer(PRESETS["light"])
    millions = {
        name: sum(p.numel() for p in part.parameters()) / 1e6 for name, part in model.named_children()
    }
    assert millions["backbone"] == pytest.approx(94.9, abs=0.05)
    assert millions["neck"] == pytest.approx(1.74, abs=0.005)
    assert millions["decode_head"] == pytest.approx(0.63, abs=0.005)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (6, 3), (4, 9), (3, 4)])
def test_every_grid_looks_up_the_nearest_cell_of_the_training_grid(height, width, monkeypatch):
    """Pair by pair, the training grid's full bias resized with nearest along its four axes."""
    heads, grid = 2, 4
    attention = Attention(8, heads, grid)
    table = torch.nn.init.normal_(attention.relative_position_bias_table)
    expected = torch.empty(heads, 1 + height * width, 1 + height * width)
    expected[:, 0], expected[:, :, 0] = table[-3][:, None], table[-2][:, None]
    expected[:, 0, 0] = table[-1]
    numbers = torch.arange(grid * grid, dtype=torch.float32).view(1, 1, grid, grid)
    nearest = torch.nn.functional.interpolate(numbers, size=(height, width), mode="nearest")
    cells = [divmod(int(number), grid) for number in nearest.flatten()]
    for i, (y, x) in enumerate(cells, 1):
        for j, (v, u) in enumerate(cells, 1):
            expected[:, i, j] = table[(y - v + grid - 1) * (2 * grid - 1) + x - u + grid - 1]
    assert torch.equal(attention._bias((height, width)), expected)
    for rows in (0.5, 1, 4, 6):
        monkeypatch.setattr(encoder, "IN_CACHE", int(rows * heads * width * (1 + height * width)))
        with torch.no_grad():
            parts = [bias.clone() for bias in attention._biases((height, width))]  # written over
        assert len(parts) == -(-height // max(1, int(rows)))
        assert torch.equal(torch.cat(parts, dim=1), expected)


def test_position_bias_and_position_embedding_look_up_the_same_cells():
    """82 cells are one of the sizes at which a quotient of whole numbers rounds otherwise than PyTorch's nearest."""
    numbers = torch.arange(16, dtype=torch.float32).view(1, 1, 1, 16)
    nearest = torch.nn.functional.interpolate(numbers, size=(1, 82), mode="nearest").flatten().long()
    offsets = Attention(8, 2, 16)._offsets(82)
    assert torch.equal(offsets, nearest[:, None] - nearest[None] + 15)
    assert not torch.equal(nearest, torch.arange(82) * 16 // 82)


def test_training_and_inference_attend_alike():
    attention = Attention(8, 2, 4)
    torch.nn.init.normal_(attention.relative_position_bias_table)
    tokens = torch.randn(2, 1 + 6 * 3, 8)
    trained = attention(tokens, (6, 3))
    with torch.inference_mode():
        torch.testing.assert_close(attention(tokens, (6, 3)), trained)
    trained.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in attention.parameters())


def test_the_reference_label_is_embedded_as_if_at_full_size(small_model):
    states = torch.randint(0, 5, (2, 64, 96), dtype=torch.uint8)
    full = torch.nn.functional.embedding(states.int(), small_model.neck.patch_embed).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(full, scale_factor=0.25, mode="bilinear", align_corners=False)
    torch.testing.assert_close(small_model.neck.embed(states, expected), expected)


@pytest.mark.parametrize(
    ("length", "ratio", "expected"),
    [(128, 12, 11), (38, 12, 10), (16, 1, 16), (5, 24, 5), (48, 12, 12), (112, 12, 11), (16, 20, 8)],
)
def test_pooled_lengths_round_half_to_even(length, ratio, expected):
    assert pooled_length(length, ratio, 128) == expected


def test_any_size_is_padded_to_multiples_of_32(small_model):
    maps = small_model.encode_pixels(np.zeros((1, 33, 70, 3), np.float32))
    assert [level.shape[2:] for level in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_a_fingerprint_follows_the_encoder(small_model):
    again = InterFormer(small_model.config)
    assert again.fingerprint != small_model.fingerprint
    again.load_state_dict(small_model.state_dict())
    assert again.fingerprint == small_model.fingerprint


def test_a_fingerprint_does_not_depend_on_how_features_are_decoded(small_model):
    other = InterFormer(
        dataclasses.replace(small_model.config, inner_radius=3, zoom_expansion=2.0, head_width=16)
    )
    other.backbone.load_state_dict(small_model.backbone.state_dict())
    assert other.fingerprint == small_model.fingerprint
    with torch.no_grad():
        next(other.backbone.layers.parameters()).add_(1)
    other.eval()
    assert other.fingerprint != small_model.fingerprint


def test_the_bundled_model_keeps_its_fingerprint():
    # Whoever has encoded with it opens the store with a later version of this package.
    assert load_model().fingerprint.startswith("a84d92c2937a44f0")


@pytest.mark.parametrize("name", ["cuda", "cuda:7", "mps", "quantum", "meta"])
def test_a_device_that_is_not_here_is_refused_with_the_remedy(name):
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("this machine has an accelerator")
    with pytest.raises(ValueError, match=r"device|asked for"):
        resolve_device(name)
    assert resolve_device("auto").type == "cpu"


def test_apples_gpu_encodes_but_the_cpu_answers_clicks(small_model, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == "mps" == resolve_device("mps").type
    assert decoding_device("auto").type == "cpu" == decoding_device("mps").type
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert decoding_device("cuda:1") == torch.device("cuda", 1)
    maps = small_model.encode_pixels(np.zeros((1, 64, 64, 3), np.float32))
    monkeypatch.setattr(InterFormer, "device", torch.device("mps"))
    with pytest.raises(ValueError, match="Clicks are answered on a CPU or CUDA"):
        small_model.prepare([torch.from_numpy(level) for level in maps])


def test_one_name_may_mean_several_devices(monkeypatch):
    assert resolve_devices("cpu") == [torch.device("cpu")]
    assert resolve_devices("cpu, cpu") == [torch.device("cpu")] * 2
    with pytest.raises(ValueError, match="device takes"):
        resolve_devices("cpu,abacus")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    every = [torch.device("cuda", number) for number in range(3)]
    assert resolve_devices("auto") == resolve_devices("cuda") == every
    assert resolve_devices("cuda:1") == every[1:2] and resolve_devices("cuda:2,cuda:0") == every[::-2]


def test_branches_that_are_dropped_in_training_are_made_up_for_by_the_others():
    layer = Layer(8, 2, 4, 1, drop_path=0.75).train()
    torch.manual_seed(0)
    found = layer._drop(torch.ones(4000, 1, 1))
    assert found.unique().tolist() == [0, 4] and found.mean().item() == pytest.approx(1, abs=0.1)


def test_deeper_layers_are_dropped_more_often():
    with torch.device("meta"):
        backbone = InterFormer(dataclasses.replace(PRESETS["small"], layers=5, drop_path=0.2)).backbone
    assert [layer.drop_path for layer in backbone.layers] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_the_finest_map_shows_what_the_tokens_and_what_the_stem_has_seen():
    torch.manual_seed(0)
    backbone = InterFormer(dataclasses.replace(PRESETS["small"], layers=1)).backbone.eval()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps = [backbone(pixels)[0]]
        for part in (backbone.pos_embed, backbone.detail.lateral_finest.weight):
            part.normal_()
            maps.append(backbone(pixels)[0])
    assert (maps[1] - maps[0]).abs().max() > 0.1 and (maps[2] - maps[1]).abs().max() > 0.1


def test_one_image_is_decoded_for_several_labels_at_once(small_model):
    maps = [
        torch.rand(1, c, 64 // s, 64 // s)
        for c, s in zip(small_model.channels, small_model.strides, strict=True)
    ]
    labels = torch.from_numpy(np.stack([blank((64, 64)) for _ in range(3)]))
    labels[1, 20:30, 20:30] = 4
    with torch.inference_mode():
        together = small_model.decode(maps, labels)
        alone = torch.cat([small_model.decode(maps, label[None]) for label in labels])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
