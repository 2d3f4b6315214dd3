"""Crops: the same for the same step, as large as asked for, pixels and objects one on the other."""

from __future__ import annotations

import itertools
import multiprocessing
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.ndimage import affine_transform, gaussian_filter, label

from learning import QUICK, WINDOW, batch, pictures, write_folder
from napari_interformer import crops, datasets, samples
from napari_interformer.crops import Batches, Picture
from napari_interformer.geometry import Box
from napari_interformer.image import Planes
from napari_interformer.samples import synthetic
from napari_interformer.train import TrainConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data"))


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
        assert (made.labels[image] == number).sum() >= crops.LEAST_PIXELS


def test_every_window_sees_something_of_its_object_even_of_a_ring():
    rows, columns = np.ogrid[:128, :128]
    away = np.hypot(rows - 64, columns - 64)
    rings = ((away > 50) & (away < 53)).astype(np.int32) + 2 * (away < 4)
    settings = replace(QUICK, zoom=(1.0, 1.0), crop_sizes=(128,), window_sizes=(1.0,), windows_per_step=8)
    made = [Batches([Picture(rings.astype(np.uint8), rings)], [], settings, 32, 0)[n] for n in range(20)]
    seen = torch.cat([one.targets.sum((1, 2)) for one in made])  # of a ring, the middle of its box has none
    assert seen.min() >= crops.LEAST_PIXELS


def test_a_batch_is_small_for_it_goes_from_process_to_process():
    made = batch()
    assert made.pixels.dtype == torch.uint8 and made.labels.dtype == torch.int8
    assert made.pixels.nbytes + made.labels.nbytes + made.objects.nbytes < 4.1 * made.labels.nelement()
    dots = np.zeros((64, 64), np.int64)
    dots[::4, ::4] = 2**31 + 50 * np.arange(256).reshape(16, 16)  # more than int8 has, and far apart
    made = Batches(
        [Picture(dots % 251, dots)], [], replace(QUICK, zoom=(4.0, 4.0), crop_sizes=(256,)), WINDOW, 0
    )[0]
    assert made.labels.dtype == torch.int16 and made.labels.unique().numel() > 128


def test_all_objects_and_their_outlines_are_read_off_the_labels():
    made = batch()
    assert (made.labels < 0).any()  # beyond the image nobody knows
    for labels, (inside, edge) in zip(made.labels, made.dense, strict=True):
        assert torch.equal(inside, labels > 0)
        around = np.pad(labels.numpy(), 1, mode="edge")
        beside = [np.roll(around, shift, axis) for axis in (0, 1) for shift in (1, -1)]
        apart = [(other != around) & (other >= 0) & (around >= 0) for other in beside]
        np.testing.assert_array_equal(edge, np.any(apart, 0)[1:-1, 1:-1])


def test_pixels_that_count_for_nothing_are_told_and_belong_to_no_object():
    labels = np.zeros((96, 96), np.int32)
    labels[20:40, 20:40], labels[60:80, 20:40], labels[60:80, 60:80] = 3, 5, 130
    labels[:, 30:70] = -1  # half of two objects, and half of the background
    labels[labels == 130] = -1  # and a third one as a whole
    picture = Picture(np.full((96, 96), 9, np.uint8), labels)
    assert picture.areas.tolist() == [200, 200] and picture.labels.min() == -1
    made = Batches([picture], [], replace(QUICK, zoom=(1.0, 1.0)), WINDOW, rank=0)[0]
    assert made.labels.dtype == torch.int8 and set(made.labels.unique().tolist()) == {-1, 0, 1, 2}
    targets, ignored = made.targets, made.ignored
    assert ignored.shape == targets.shape and ignored.any() and not (targets & ignored).any()
    for (image, _, top, left), seen in zip(made.objects.tolist(), ignored, strict=True):
        box = Box(left, top, left + made.window, top + made.window)
        assert torch.equal(seen, made.labels[image][box.slices] < 0)


def test_what_a_data_set_ignores_is_not_learnt_from(folder, monkeypatch):
    load, ignore = datasets.load, np.zeros((96, 110), bool)
    ignore[:40] = True
    monkeypatch.setattr(
        datasets,
        "load",
        lambda name, root: (replace(sample, ignore=ignore) for sample in load(name, root)),
    )
    for picture in crops.training_pictures(folder, QUICK)[0]:
        np.testing.assert_array_equal(picture.labels < 0, ignore)


@example(left=0, top=20, width=1, height=1, seed=1)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 60), st.integers(1, 60), st.integers(0, 9))
def test_a_window_holds_a_pixel_of_its_object(left, top, width, height, seed):
    box = Box(left, top, min(128, left + width), min(128, top + height))
    window = crops.place_window(box, 64, 128, np.random.default_rng(seed))
    assert (window.width, window.height) == (64, 64)
    assert not window.intersect(box).empty


def test_synthetic_images_are_made_by_processes_that_end_though_they_are_deaf():
    """In a process of its own, which the shell's handlers leave deaf: a hang must end with the test."""
    script = (
        "from dataclasses import replace\nfrom napari_interformer.terminal import between_steps\n"
        "from napari_interformer.crops import synthetic_pictures\n"
        "from napari_interformer.train import TrainConfig\n"
        "config = TrainConfig(synthetic_images=18, crop_sizes=(32,), workers=2)\n"
        "with between_steps():\n    made = synthetic_pictures(config)\n"
        "alone = synthetic_pictures(replace(config, workers=0))\n"
        "print(len(made), all((a.labels == b.labels).all() for a, b in zip(made, alone, strict=True)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.stdout.split() == ["18", "True"], run.stderr


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_whoever_cancels_need_not_wait_for_synthetic_images(workers):
    asked = iter(range(100))
    config = TrainConfig(synthetic_images=10_000, crop_sizes=(32,), workers=workers)
    assert len(crops.synthetic_pictures(config, lambda: next(asked) == 9)) < 10
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("share", "side"), [(0.1, 32), (0.3, 32), (0.4, 32), (0.8, 64), (9.0, 64)])
def test_windows_are_multiples_of_32(share, side):
    made = batch(window_sizes=(share,))
    assert made.window == side and made.targets.shape[1:] == (side, side)
    assert not (made.objects[:, 2:] % 32).any()


def test_crops_without_objects_are_not_cut_for_ever(monkeypatch):
    monkeypatch.setattr(crops, "LEAST_PIXELS", 10_000)
    monkeypatch.setattr(crops, "TRIES", 5)
    with pytest.raises(ValueError, match=r"Hardly any of .* has an object of 10000 pixels"):
        batch()


def test_specks_do_not_tell_how_large_objects_are():
    labels = np.zeros((64, 64), np.int32)
    labels[:20, :20] = 1
    labels[40, ::4] = np.arange(2, 18)
    assert Picture(np.zeros((64, 64), np.uint8), labels).diameter == pytest.approx(np.sqrt(4 * 400 / np.pi))


def test_of_a_large_image_with_one_object_every_step_finds_it(monkeypatch):
    monkeypatch.setattr(crops, "TRIES", 60)  # one in two hundred would hold it
    labels = np.zeros((1200, 1200), np.int32)
    labels[700:720, 300:320] = 1
    made = Batches([Picture((labels * 200).astype(np.uint8), labels)], [], QUICK, WINDOW, 0)
    rows = [np.argwhere(made[step].labels[0].numpy() > 0)[:, 0].mean() for step in range(20)]
    assert np.ptp(rows) > 10  # not always in the middle


@pytest.mark.parametrize("corner", [(0, 0), (0, 470), (470, 470)])
def test_a_crop_around_an_object_holds_it(corner):
    labels = np.zeros((500, 500), np.int32)
    labels[corner[0] : corner[0] + 30, corner[1] : corner[1] + 30] = 1
    picture, rng = Picture((labels * 200).astype(np.uint8), labels), np.random.default_rng(0)
    config = replace(QUICK, diameters=(20.0, 20.0), zoom=(0.1, 10.0))
    for _ in range(30):
        cut = crops.cut_labels(picture, crops.draw_place(picture, 64, config, rng, on_object=True))
        assert (cut == 1).sum() > 50


def test_crops_show_objects_as_large_as_asked_for():
    config, rng = replace(QUICK, diameters=(20.0, 20.0), zoom=(0.1, 10.0)), np.random.default_rng(0)
    disks = np.zeros((200, 200), np.int32)
    y, x = np.ogrid[:200, :200]
    for number, centre in enumerate(np.ndindex(4, 4), 1):
        disks[(y - 50 * centre[0] - 25) ** 2 + (x - 50 * centre[1] - 25) ** 2 < 20**2] = number
    picture = Picture((disks > 0).astype(np.uint8) * 200, disks)
    for _ in range(10):
        place = crops.draw_place(picture, 64, config, rng)
        labels = crops.cut_labels(picture, place)
        assert labels.shape == (64, 64) and crops.cut_pixels(picture, place, rng).shape == (3, 64, 64)
        areas = np.unique(labels[labels > 0], return_counts=True)[1]
        assert np.sqrt(4 * areas.max() / np.pi) == pytest.approx(
            20, rel=0.06
        )  # one lies inside whole, whatever the turn


@pytest.mark.parametrize("seed", range(8))
def test_a_crop_is_cut_as_scipy_would(seed, monkeypatch):
    """Pixels and labels lie one on the other, whatever the turn, and black begins where the image ends."""
    monkeypatch.setattr(crops, "recolour", lambda colours, *_: colours)
    rng = np.random.default_rng(seed)
    turn = crops.warp(rng)
    monkeypatch.setattr(crops, "warp", lambda _: turn)
    smooth = gaussian_filter(rng.normal(size=(90, 120)), 4)
    labels = label(smooth > 0)[0]
    picture = Picture((4000 * (smooth - smooth.min())).astype(np.uint16), labels)
    factor = 100 / 90 / 1.25 if seed % 2 else 2.0  # the first holds all of the image
    config = replace(QUICK, zoom=(factor, factor))
    place = crops.draw_place(picture, 100, config, rng)
    cut, numbers = crops.cut_pixels(picture, place, rng)[0].numpy(), crops.cut_labels(picture, place)

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
    assert outside.any() == (seed % 2 == 1) and not cut[outside].any()
    assert (numbers[outside] == -1).all() and (numbers[inside] >= 0).all()


def test_an_image_is_stretched_between_its_percentiles_before_it_is_rounded(monkeypatch):
    monkeypatch.setattr(crops, "recolour", lambda colours, *_: colours)
    dark = np.random.default_rng(0).normal(300, 20, (96, 96)).astype(np.uint16)
    dark[0, :3] = 60_000
    picture = Picture(dark, np.pad(np.ones((32, 32), int), 32))
    for level in (0.0, 1.0, 2.0, 99.0, 100.0):
        assert np.interp(level, crops.LEVELS, picture.quantiles) == pytest.approx(np.percentile(dark, level))
    rng = np.random.default_rng(1)
    place = crops.draw_place(picture, 64, replace(QUICK, zoom=(1.0, 1.0)), rng)
    cut = crops.cut_pixels(picture, place, rng)
    assert cut.dtype == torch.uint8 and len(cut.unique()) > 60
    speck = np.zeros((96, 96), np.float32)
    speck[40:42, 40:42], speck[0, 0] = 1e-3, np.nan
    picture = Picture(speck, np.pad(np.ones((32, 32), int), 32))
    assert crops.cut_pixels(picture, place, rng).max() > 200
    assert not crops.cut_pixels(Picture(0 * speck, picture.labels), place, rng).any()


@pytest.mark.parametrize(
    ("dtype", "white"), [(np.uint8, 255), (np.uint16, 4000), (np.float32, 1), (np.float32, 90)]
)
def test_colours_of_any_type_are_seen_as_a_session_shows_them(dtype, white, monkeypatch):
    monkeypatch.setattr(crops, "recolour", lambda colours, *_: colours)
    labels = np.pad(np.ones((32, 32), int), 32)
    stained = (np.stack([1 - 0.5 * labels, 1 - 0.8 * labels, 1 - 0.4 * labels], -1) * white).astype(dtype)
    picture, rng = Picture(stained, labels), np.random.default_rng(0)
    shown = Planes.of(stained).read()
    for _ in range(6):  # some are stretched further
        place = crops.draw_place(picture, 64, replace(QUICK, zoom=(1.0, 1.0)), rng)
        numbers, cut = crops.cut_labels(picture, place), crops.cut_pixels(picture, place, rng).numpy()
        assert np.ptp(cut) > 0.9 * np.ptp(shown) and 0 < numbers.mean() < 1
        assert cut[1][numbers > 0].mean() < cut[1][numbers == 0].mean() - 100


def test_what_is_made_smaller_shows_no_pattern_that_is_not_there(monkeypatch):
    monkeypatch.setattr(crops, "recolour", lambda colours, *_: colours)
    board = (np.indices((200, 200)).sum(0) % 2 * 255).astype(np.uint8)
    picture, rng = Picture(board, np.ones((200, 200), int)), np.random.default_rng(0)
    place = crops.draw_place(picture, 64, replace(QUICK, zoom=(0.4, 0.4)), rng)
    cut = crops.cut_pixels(picture, place, rng)[:, 2:-2, 2:-2].float()
    assert cut.std() < 8 and 100 < cut.mean() < 155


@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_recoloured_pixels_stay_in_range_and_gray_ones_are_worked_on_once(scale):
    gray, colour = np.random.default_rng(0).random((2, 3, 20, 30), np.float32)
    made = [
        [crops.recolour(one, scale, np.random.default_rng(seed)) for seed in range(60)]
        for one in (gray[:1], colour)
    ]
    for out in itertools.chain(*made):
        assert out.dtype == np.float32 and out.shape[1:] == (20, 30) and 0 <= out.min() <= out.max() <= 1
    assert [len({len(out) for out in some}) for some in made] == [2, 2]
    assert np.mean([len(out) == 1 for out in made[0]]) > 0.5  # 3 only with the noise of a colour camera


def test_images_of_rare_kinds_come_more_often():
    many = [replace(picture, kind="many") for picture in pictures(8)] + [replace(pictures(1)[0], kind="few")]
    chances = Batches(many, [], replace(QUICK, balance=1.0), WINDOW, 0).chances
    assert chances[-1] == pytest.approx(0.5) and chances.sum() == pytest.approx(1)
    assert Batches(many, [], replace(QUICK, balance=0.0), WINDOW, 0).chances[-1] == pytest.approx(1 / 9)


def test_kinds_and_families_can_be_left_out(folder, monkeypatch):
    kinds = {"0": "tissue", "1": "nuclei", "2": "tissue", "3": "nuclei"}
    load = datasets.load
    monkeypatch.setattr(
        datasets,
        "load",
        lambda name, root: (replace(sample, kind=kinds[sample.name]) for sample in load(name, root)),
    )
    config = replace(QUICK, validation=0.0, synthetic_images=3, crop_sizes=(64,))
    assert len(crops.training_pictures(folder, config)[0]) == 4
    left = replace(config, exclude="tissue, membranes")
    assert len(crops.training_pictures(folder, left)[0]) == 2
    asked = []
    monkeypatch.setattr(
        samples,
        "synthetic",
        lambda rng, size, exclude: asked.append(exclude) or synthetic(rng, size, "nuclei"),
    )
    assert len(crops.synthetic_pictures(left)) == 3
    assert asked == [{"tissue", "membranes"}] * 2  # the first is a plane of a stack
    with pytest.raises(ValueError, match=r"exclude takes kinds of image and synthetic families .*; got cats"):
        crops.training_pictures(folder, replace(config, exclude="cats"))


def test_every_third_synthetic_image_is_a_plane_of_a_stack(monkeypatch):
    flat, deep = [], []
    drawn = samples.synthetic_stack

    def stack(rng, size, exclude):
        deep.append((size, set(exclude)))
        return drawn(rng, size, "nuclei")

    monkeypatch.setattr(samples, "synthetic_stack", stack)
    monkeypatch.setattr(
        samples, "synthetic", lambda rng, size, exclude: flat.append(size) or synthetic(rng, size, "nuclei")
    )
    config = replace(QUICK, synthetic_images=10, crop_sizes=(64,), exclude="organelles")
    made = crops.synthetic_pictures(config)
    assert len(made) == 10 and len(flat) == 6 and deep == [((8, 80, 80), {"organelles"})] * 4
    for picture in made:
        assert picture.pixels.shape == picture.labels.shape == (80, 80)
        np.testing.assert_array_equal(
            np.unique(picture.labels[picture.labels > 0]), np.arange(1, picture.labels.max() + 1)
        )
    crops.synthetic_pictures(replace(config, exclude="organelles,nuclei"))
    assert len(flat) == 16 and len(deep) == 4  # no stacks are left


def squares(side, gap, shape=(200, 200)):
    """Return an image full of squares, and their labels."""
    labels = np.zeros(shape, np.int32)
    every = side + gap
    for number, (row, column) in enumerate(np.ndindex(shape[0] // every, shape[1] // every), 1):
        labels[row * every : row * every + side, column * every : column * every + side] = number
    return Picture((labels > 0).astype(np.uint8) * 200, labels)


def test_each_process_of_a_run_has_batches_of_its_own_but_all_have_crops_and_windows_of_the_same_sizes():
    config = replace(QUICK, crop_sizes=(64, 96), window_sizes=(0.5, 1.0), zoom=(2.0, 4.0))
    ranks = [Batches(pictures(), [], config, WINDOW, rank) for rank in (0, 1)]
    sizes = set()
    for step in range(12):
        first, second = (batches[step] for batches in ranks)
        assert first.pixels.shape[2:] == second.pixels.shape[2:] and first.window == second.window
        assert not torch.equal(first.pixels, second.pixels) and first.seed != second.seed
        sizes.add((first.pixels.shape[-1], first.window))
    assert len(sizes) == 4


@pytest.mark.parametrize(("share", "count"), [(0.5, 8), (1.0, 2)])
def test_as_many_objects_as_asked_for_at_half_the_click_window_and_fewer_in_larger_ones(share, count):
    config = replace(QUICK, window_sizes=(share,), zoom=(1.0, 1.0))
    assert len(Batches([squares(8, 4)], [], config, WINDOW, 0)[0].objects) == count


def test_the_first_objects_of_a_batch_are_not_all_of_one_crop():
    config = replace(QUICK, window_sizes=(0.5,), windows_per_step=32, zoom=(1.0, 1.0))
    made = Batches([squares(8, 4)], [], config, WINDOW, 0)[0]
    assert len(made.objects) == 32 and made.objects[:16, 0].unique().tolist() == [0, 1]


def test_an_object_of_12_pixels_is_learnt_from_and_one_of_11_is_not(rng):
    labels = np.zeros((8, 12), np.int32)
    labels[:3, :4], labels[5, :11] = 1, 2
    assert crops.choose_objects(labels, 9, rng).tolist() == [1]


def test_little_more_than_a_third_of_a_crop_is_black_however_small_its_image(rng):
    picture, config = squares(8, 4, (30, 40)), replace(QUICK, zoom=(1.0, 1.0))
    for _ in range(20):
        numbers = crops.cut_labels(picture, crops.draw_place(picture, 64, config, rng))
        assert (numbers < 0).mean() < 0.4
