"""Adapting: a copy learns from finished labels, the features stay good, and bad input changes nothing."""

from __future__ import annotations

from concurrent.futures import CancelledError
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

import napari_interformer as ni
from conftest import blobs
from napari_interformer import adapting, checkpoint
from napari_interformer.adapting import AdaptConfig
from napari_interformer.geometry import Box
from napari_interformer.image import Planes
from napari_interformer.loss import ClickConfig
from napari_interformer.samples import synthetic, synthetic_stack
from napari_interformer.train import TrainConfig

QUICK = AdaptConfig(steps=3, minutes=0, objects=12, windows_per_step=3, max_clicks=2)


@pytest.fixture(scope="module")
def cells():
    return synthetic(np.random.default_rng(3), (96, 110), "nuclei")


@pytest.fixture(scope="module")
def encoded(cells, small_model):
    return ni.encode(cells[0], small_model)


def test_the_adapted_model_answers_differently_on_the_same_features(cells, encoded, small_model):
    before = {name: value.clone() for name, value in small_model.state_dict().items()}
    adapted = ni.adapt(small_model, encoded, cells[1], config=replace(QUICK, lr=1e-2))
    assert adapted.fingerprint == small_model.fingerprint
    after = adapted.state_dict()
    changed = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"neck", "decode_head"}
    assert all(torch.equal(value, small_model.state_dict()[name]) for name, value in before.items())
    ni.Session(encoded, adapted).click((50, 50))


def test_adapting_lowers_the_loss_on_what_it_learns_from(default_model):
    image, labels = synthetic(np.random.default_rng(3), (128, 128), "bacteria")
    features, losses = ni.encode(image, default_model), []
    config = replace(QUICK, steps=8, passes=16, objects=2, windows_per_step=2, lr=2e-3, max_clicks=0)
    ni.adapt(default_model, features, labels, config=config, progress=lambda now: losses.append(now.loss))
    assert len(losses) == 8
    assert np.mean(losses[-2:]) < 0.8 * np.mean(losses[:2])


def test_objects_of_an_image_smaller_than_a_window_are_not_used_more_often(default_model, monkeypatch):
    image, labels = synthetic(np.random.default_rng(3), (64, 64), "bacteria")
    assert default_model.config.click_window == 128
    used, plain = [], adapting.click_loss
    monkeypatch.setattr(adapting, "click_loss", lambda *given: (used.append(len(given[2])), plain(*given))[1])
    config = replace(QUICK, steps=100, passes=2, windows_per_step=4, max_clicks=0)
    ni.adapt(default_model, ni.encode(image, default_model), labels, config=config)
    count = np.unique(labels).size - 1
    assert 6 <= count <= 12 and 2 * count - 4 <= sum(used) <= 2 * count + 4


def test_a_model_whose_learning_diverges_is_not_returned(cells, encoded, small_model):
    with pytest.raises(ValueError, match=r"by step \d they no longer were, .* give a lower lr than 1e\+38"):
        ni.adapt(small_model, encoded, cells[1], config=replace(QUICK, lr=1e38))


def test_the_same_seed_gives_the_same_model(cells, encoded, small_model):
    one, two = (ni.adapt(small_model, encoded, cells[1], config=QUICK) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_an_adapted_model_is_saved_and_loaded_like_any_other(cells, encoded, small_model, tmp_path):
    adapted = ni.adapt(small_model, encoded, cells[1], config=QUICK)
    again = ni.load_model(ni.save_model(adapted, tmp_path / "mine.safetensors"))
    ni.Session(encoded, again)
    assert all(torch.equal(a, b) for a, b in zip(adapted.parameters(), again.parameters(), strict=True))


def test_several_images_and_stacks_with_planes_missing(cells, encoded, small_model, monkeypatch):
    stack, labels = synthetic_stack(np.random.default_rng(1), (3, 64, 64), "nuclei")
    some = ni.encode(stack, small_model, planes=[(1,)])
    seen, window = [], ni.Features.window
    monkeypatch.setattr(
        ni.Features, "window", lambda one, plane, box: seen.append((one, plane)) or window(one, plane, box)
    )
    ni.adapt(small_model, [encoded, some], [cells[1], labels], config=QUICK)
    assert {(encoded, ()), (some, (1,))} == set(seen)
    assert len(seen) == QUICK.objects


@pytest.mark.parametrize(
    ("counts", "most", "shares"),
    [
        ([1000], 800, [800]),
        ([30], 800, [30]),
        ([500, 500], 800, [400, 400]),
        ([1000, 3], 800, [797, 3]),
        ([500, 500, 500], 800, [266, 267, 267]),
        ([5, 0, 2, 9], 12, [5, 0, 2, 5]),
        ([4, 4, 4], 2, [0, 1, 1]),
    ],
)
def test_images_share_the_objects_and_what_one_lacks_the_others_give(counts, most, shares):
    assert adapting._shares(counts, most) == shares


def test_no_more_objects_are_learnt_from_than_were_asked_for(cells, encoded, small_model, monkeypatch):
    taught, batches = [], adapting._batches
    monkeypatch.setattr(
        adapting, "_batches", lambda lessons, *rest: taught.append(len(lessons)) or batches(lessons, *rest)
    )
    few = np.where(cells[1] == 1, 1, 0)
    for labels in ([few, cells[1]], [cells[1], cells[1], cells[1]]):
        objects = 5 if labels[0] is few else 2
        ni.adapt(small_model, [encoded] * len(labels), labels, config=replace(QUICK, objects=objects))
    assert taught == [5, 2]


def test_objects_are_seen_at_the_magnification_of_a_session(cells, small_model):
    config = replace(small_model.config, diameters=(40.0, 60.0))
    torch.manual_seed(0)
    model = type(small_model)(config).eval()
    features = ni.encode(cells[0], model)
    asked = []
    plain = model.encode_pixels
    model.encode_pixels = lambda pixels, *_: asked.append(pixels.shape) or plain(pixels)
    ni.adapt(model, features, cells[1], config=replace(QUICK, steps=1))
    assert asked
    asked.clear()
    features.source = None
    ni.adapt(model, features, cells[1], config=replace(QUICK, steps=1))
    assert not asked
    ni.adapt(model, features, cells[1], images=Planes.of(cells[0]), config=replace(QUICK, steps=1))
    assert asked


@pytest.mark.parametrize("level", [-1, 0, 1])
def test_beyond_the_image_below_0_and_without_a_value_nothing_is_learnt(level, blob_model):
    labels, image = np.zeros((1, 40, 44), np.int16), np.zeros((1, 40, 44), np.float32)
    labels[0, 8:12, 4:20] = -1
    image[0, 20:24, 4:20] = np.nan
    features = ni.encode(image, blob_model, device="cpu")
    scale = 2.0**level
    window = Box(0, 0, 64, 64) if level == 1 else Box(0, 0, 64, 32)
    found = adapting._ignored(features, labels, features.source, (0,), level, window)
    y, x = ((np.arange(n) + 0.5) / scale for n in found.shape)
    known = ~((y > 8) & (y < 12) | (y > 20) & (y < 24))[:, None] | ~((x > 4) & (x < 20))
    known &= (y < 40)[:, None] & (x < 44)
    np.testing.assert_array_equal(found, ~known)


def test_the_loss_is_told_what_is_ignored(cells, encoded, small_model, monkeypatch):
    seen, plain = [], adapting.click_loss
    monkeypatch.setattr(adapting, "click_loss", lambda *given: seen.append(given[2:4]) or plain(*given))
    labels = cells[1].astype(int)
    labels[:30] = -1
    ni.adapt(small_model, encoded, labels, config=replace(QUICK, steps=1, windows_per_step=12))
    assert any(ignored.any() for _, ignored in seen)
    assert not any((targets & ignored).any() for targets, ignored in seen)


@pytest.fixture(scope="module")
def lens(small_model):
    """Return a model that is shown large objects from farther away, and small ones magnified."""
    torch.manual_seed(0)
    return type(small_model)(replace(small_model.config, diameters=(8.0, 24.0))).eval()


def test_an_object_in_a_band_that_does_not_count_is_told_from_it_where_it_is_shrunk(lens, monkeypatch):
    image, labels = np.zeros((96, 96), np.uint8), np.zeros((96, 96), np.int32)
    labels[18:65, 18:65] = -1
    labels[21:62, 21:62] = 1  # it begins on odd pixels: blocks of 2 x 2 are half of it, half of the band
    image[labels == 1] = 200
    seen, losses, plain = [], [], adapting.click_loss
    monkeypatch.setattr(adapting, "click_loss", lambda *given: seen.append(given[2:4]) or plain(*given))
    features = ni.encode(image, lens)
    ni.adapt(
        lens, features, labels, config=replace(QUICK, steps=1), progress=lambda now: losses.append(now.loss)
    )
    ((targets, ignored),) = seen
    assert targets.sum() == 21**2 - 1 and ignored.any() and not (targets & ignored).any()
    assert np.isfinite(losses).all()


def test_of_an_object_nothing_is_learnt_where_the_image_has_no_value(small_model, monkeypatch):
    image, labels = np.zeros((64, 64), np.float32), np.zeros((64, 64), np.uint8)
    image[20:40, 20:40], labels[20:40, 20:40] = 1, 1
    image[28:32, 28:32] = np.nan
    seen, plain = [], adapting.click_loss
    monkeypatch.setattr(adapting, "click_loss", lambda *given: seen.append(given[2:4]) or plain(*given))
    ni.adapt(small_model, ni.encode(image, small_model), labels, config=replace(QUICK, steps=1))
    ((targets, ignored),) = seen
    np.testing.assert_array_equal(ignored[0].numpy(), np.isnan(image))
    np.testing.assert_array_equal(targets[0].numpy(), (labels == 1) & ~np.isnan(image))


def test_specks_take_no_room_from_the_objects_that_are_learnt_from(small_model, monkeypatch):
    specks = np.zeros((96, 96), np.int32)
    specks[::4, ::4] = np.arange(1, 24**2 + 1).reshape(24, 24)
    labels = specks.copy()
    labels[:24, :96] = np.repeat(np.arange(1001, 1005), 24)
    taught, batches = [], adapting._batches
    monkeypatch.setattr(
        adapting, "_batches", lambda lessons, *rest: taught.append(len(lessons)) or batches(lessons, *rest)
    )
    features = ni.encode(np.zeros((96, 96), np.uint8), small_model)
    config = replace(QUICK, steps=1, objects=4)
    ni.adapt(small_model, [features, features], [labels, specks], config=config)
    assert taught == [4]
    with pytest.raises(
        ValueError,
        match="objects of at least 12 pixels with a value; got 576 on encoded planes, none of that size",
    ):
        ni.adapt(small_model, features, specks, config=config)


def test_small_objects_are_learnt_from_as_large_as_a_session_shows_them(lens, monkeypatch):
    labels = np.zeros((64, 64), np.uint8)
    labels[20:22, 20:22] = 1  # 4 pixels, 16 when magnified
    monkeypatch.setattr(adapting, "UNMAGNIFIED", 0.0)
    ni.adapt(lens, ni.encode(np.zeros((64, 64), np.uint8), lens), labels, config=replace(QUICK, steps=1))


def test_cancelling_leaves_the_model_as_it_was(cells, encoded, small_model):
    before = {name: value.clone() for name, value in small_model.state_dict().items()}
    with pytest.raises(CancelledError, match="has not changed"):
        ni.adapt(small_model, encoded, cells[1], config=QUICK, cancelled=lambda: True)
    assert all(torch.equal(value, small_model.state_dict()[name]) for name, value in before.items())


def test_cancelling_is_heard_while_objects_are_looked_for(small_model):
    stack, labels = synthetic_stack(np.random.default_rng(1), (3, 64, 64), "nuclei")
    features, read = ni.encode(stack, small_model), []

    class Slow:
        shape, dtype = labels.shape, labels.dtype

        def __getitem__(self, key):
            read.append(key)
            return labels[key]

    with pytest.raises(CancelledError, match="has not changed"):
        ni.adapt(small_model, features, Slow(), config=QUICK, cancelled=lambda: len(read) > 0)
    assert read == [(0,)]


WRONG = {
    "no labels": (lambda labels: np.zeros_like(labels), "commit some objects"),
    "another shape": (lambda labels: labels[:50], "image's shape"),
    "not integers": (lambda labels: labels.astype(float), "integer array"),
    "no array": (lambda labels: labels.tolist(), "numpy.asarray"),
}


@pytest.mark.parametrize("name", WRONG)
def test_labels_that_do_not_serve_are_told(name, cells, encoded, small_model):
    change, word = WRONG[name]
    with pytest.raises((ValueError, TypeError), match=word):
        ni.adapt(small_model, encoded, change(cells[1]), config=QUICK)


def test_images_that_were_not_encoded_are_told_and_arrays_are_taken(cells, encoded, small_model):
    with pytest.raises(ValueError, match="the image that was encoded"):
        ni.adapt(small_model, encoded, cells[1], images=cells[0][::-1], config=QUICK)
    ni.adapt(small_model, [encoded], [cells[1]], images=[cells[0]], config=replace(QUICK, steps=1))


def test_what_is_given_in_another_order_is_told(cells, encoded, small_model):
    with pytest.raises(TypeError, match="in this order; got ndarray for the features"):
        ni.adapt(small_model, cells[1], encoded)
    with pytest.raises(TypeError, match="in this order; got list for the features"):
        ni.adapt(small_model, [cells[1]], [encoded])


def test_features_of_another_model_are_told(cells, encoded, default_model):
    with pytest.raises(ValueError, match="encode the image with this model"):
        ni.adapt(default_model, encoded, cells[1], config=QUICK)


def test_as_many_labels_as_images(cells, encoded, small_model):
    with pytest.raises(ValueError, match="got 1 for 2"):
        ni.adapt(small_model, [encoded, encoded], [cells[1]], config=QUICK)


def test_a_list_of_features_needs_lists(cells, encoded, small_model, tmp_path):
    for labels, images in ((None, None), ([cells[1]], tmp_path)):
        with pytest.raises(TypeError, match="adapt takes lists of label images and of images"):
            ni.adapt(small_model, [encoded], labels, images=images, config=QUICK)


def test_a_configuration_of_another_kind_is_refused(cells, encoded, small_model):
    for other, told in (
        ({"steps": 2}, "{'steps': 2}"),
        (ClickConfig(), "ClickConfig"),
        (TrainConfig(), "TrainConfig"),
    ):
        with pytest.raises(TypeError, match=f"config takes an AdaptConfig; got {told}"):
            ni.adapt(small_model, encoded, cells[1], config=other)


def test_an_adapted_model_gets_a_free_name_and_none_is_kept_of_one_that_is_cancelled_at_the_end(
    cells, encoded, small_model, tmp_path, monkeypatch
):
    home = tmp_path / "home" / "models"
    monkeypatch.setattr(checkpoint, "user_models", lambda: home)
    monkeypatch.setattr(adapting, "AdaptConfig", lambda: QUICK)

    def save(cancelled):
        return adapting.adapt_and_save(
            small_model, encoded, cells[1], "mine", "default", progress=lambda _: None, cancelled=cancelled
        )

    assert [save(lambda: False)[0] for _ in range(2)] == ["mine", "mine-2"]
    with pytest.raises(CancelledError):
        save(lambda: (home / "mine-3.safetensors").exists())
    assert sorted(path.stem for path in home.iterdir()) == ["mine", "mine-2"]


@pytest.mark.parametrize("kept", [0.0, 1.0])
def test_as_much_of_the_old_weights_is_kept_as_was_asked_for(kept, cells, encoded, small_model):
    adapted = ni.adapt(small_model, encoded, cells[1], config=replace(QUICK, lr=1e-2, kept=kept))
    same = [torch.equal(a, b) for a, b in zip(adapted.parameters(), small_model.parameters(), strict=True)]
    assert all(same) == (kept == 1)


def test_the_learning_rate_falls_while_there_are_fewer_steps_to_go(cells, encoded, small_model):
    rates = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    try:
        ni.adapt(small_model, encoded, cells[1], config=replace(QUICK, lr=0.06))
    finally:
        hook.remove()
    assert rates == pytest.approx([0.003, 0.004, 0.003])  # it is still warming up


def test_objects_too_large_for_a_session_as_they_are_are_never_seen_so(small_model, monkeypatch):
    image, labels = blobs()
    torch.manual_seed(0)
    model = type(small_model)(replace(small_model.config, diameters=(8.0, 16.0))).eval()
    features = ni.encode(image, model)
    monkeypatch.setattr(ni.Features, "window", pytest.fail)
    ni.adapt(model, features, labels, config=replace(QUICK, steps=1))
