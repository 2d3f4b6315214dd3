"""Prompts to masks, with no session around: windows, planes, threads."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion

from conftest import BlobModel, blobs
from napari_interformer.decoding import ANSWERS, Decoding, Step, View, _in_image
from napari_interformer.encoding import encode, room_for
from napari_interformer.geometry import Box
from napari_interformer.image import Planes
from napari_interformer.prompts import BoxPrompt, Click, Mask, Scribble
from napari_interformer.reference import fold
from napari_interformer.samples import synthetic

IMAGE, LABELS = blobs()
MODEL = BlobModel()


def decoding_of(image: np.ndarray, model: BlobModel = MODEL) -> Decoding:
    return Decoding(encode(image, model, contrast=(0, 255), device="cpu"), model)


def mask_of(step, shape: tuple[int, int]) -> np.ndarray:
    whole = np.zeros(shape, bool)
    whole[step.box.slices] = step.mask
    return whole


def test_each_prompt_has_a_step_and_planes_do_not_know_of_each_other():
    decoding = decoding_of(np.stack([IMAGE, IMAGE]))
    prompts = [Click((0,), 32, 32), Click((1,), 32, 96), Click((0,), 32, 160)]
    steps = decoding.steps(prompts)
    assert [step.prompt for step in steps] == prompts
    assert [len(step.prompts) for step in steps] == [1, 1, 2]
    np.testing.assert_array_equal(mask_of(steps[1], IMAGE.shape), LABELS == 2)
    np.testing.assert_array_equal(mask_of(steps[2], IMAGE.shape), (LABELS == 1) | (LABELS == 3))


def test_a_guess_is_told_its_own_answers_again():
    model = BlobModel()
    asked, plain = [], model.decode_logits
    decoding = decoding_of(IMAGE, model)

    def decode_logits(maps, reference, roi=None):
        logits = plain(maps, reference, roi)
        asked.append((reference.copy(), roi, logits))
        return logits

    model.decode_logits = decode_logits
    start = Mask((), Box(86, 20, 100, 40), np.ones((20, 14), bool))  # a part of an object, and some beside it
    box, logits = decoding.guess(start, Click((), 30, 96), 0)
    assert len(asked) == ANSWERS > 1
    for (reference, _, answer), (following, *_) in pairwise(asked):
        np.testing.assert_array_equal(following, fold(reference, answer > 0))
    assert all(roi.width * roi.height >= asked[0][1].width * asked[0][1].height for _, roi, _ in asked)
    assert (logits[30 - box.top, 96 - box.left] > 0) and start.mask.all()


def test_masks_have_no_pixel_beyond_the_image():
    image = np.full((50, 70), 200, np.uint8)  # padded to 64x96
    (step,) = decoding_of(image).steps([Click((), 40, 60)])
    assert Box.of(image.shape).holds(step.box) and step.mask.shape == (step.box.height, step.box.width)
    assert mask_of(step, image.shape).mean() > 0.8  # BlobModel sees black in the padding


def test_a_mask_that_lies_in_the_padding_alone_is_empty():
    step = decoding_of(np.zeros((50, 70), np.uint8))._inside(
        Step(
            (),
            Box(0, 52, 8, 60),
            np.ones((8, 8), bool),
            View(0, Box(0, 0, 0, 0), *[np.zeros((0, 0), np.uint8)] * 2),
        )
    )
    assert step.box == Box(0, 0, 0, 0) and step.mask.shape == (0, 0)


def test_steps_are_taken_as_they_are_up_to_the_first_prompt_that_differs():
    model = BlobModel()
    decoding = decoding_of(np.stack([IMAGE, IMAGE]), model)
    first, second, elsewhere = Click((0,), 32, 32), Click((0,), 32, 96), Click((1,), 32, 96)
    before = decoding.steps([first, second, elsewhere])
    decoded = model.decoded
    same = decoding.steps([first, elsewhere], before=before)
    assert same[0] is before[0] and same[1] is before[2] and model.decoded == decoded
    other = decoding.steps([first, Click((0,), 32, 160), elsewhere], before=before)
    assert other[0] is before[0] and other[2] is before[2] and model.decoded > decoded


def test_a_mask_as_a_prompt_is_the_object():
    decoding = decoding_of(IMAGE)
    (step,) = decoding.steps([Mask((), Box(10, 20, 30, 40), np.ones((20, 20), bool))])
    mask = mask_of(step, IMAGE.shape)
    assert mask.sum() == 400 and mask[25, 15]
    with pytest.raises(ValueError, match="inside the image"):
        decoding.steps([Mask((), Box(-5, 20, 15, 40), np.ones((20, 20), bool))])


def test_a_box_larger_than_a_window_is_decoded_without_the_image():
    decoding = decoding_of(IMAGE)
    assert decoding.image is None
    box = BoxPrompt.between((90, 10), (130, 180))
    (step,) = decoding.steps([box])
    mask = mask_of(step, IMAGE.shape)
    assert mask.any() and not mask[:80].any()
    assert len(decoding.steps([box, Click((), 112, 96)], before=(step,))) == 2


def test_an_object_larger_than_the_window_is_found_whole():
    image = np.zeros((320, 320), np.uint8)
    image[20:252, 32:248] = 200
    (step,) = decoding_of(image).steps([Click((), 140, 140)])
    assert (mask_of(step, image.shape) == (image > 0)).mean() > 0.99


def test_distant_clicks_keep_what_lies_beyond_the_window():
    image = np.zeros((64, 1600), np.uint8)
    image[20:40, 20:60] = image[20:40, 1500:1560] = 200
    mask = mask_of(decoding_of(image).steps([Click((), 30, 40), Click((), 30, 1530)])[-1], image.shape)
    assert mask[30, 25] and mask[30, 1505]


def test_a_line_that_leaves_the_image_and_comes_back_counts_as_its_longest_piece():
    away_and_back = Scribble.along([(32, 20), (-20, 20), (-20, 170), (32, 170), (112, 170)])
    (step,) = decoding_of(IMAGE).steps([away_and_back])
    assert step.prompt.path[0] == (0, 170) and step.prompt.path[-1] == (112, 170)
    mask = mask_of(step, IMAGE.shape)
    assert not mask[0, 40:140].any()
    with pytest.raises(ValueError, match="inside the image"):
        decoding_of(IMAGE).steps([Scribble.along([(-5, 20), (-5, 170)])])


def test_a_line_that_ends_far_beyond_the_image_costs_no_more_than_one_that_ends_beside_it():
    near, far = (decoding_of(IMAGE).steps([Scribble((), ((32, 20), (32, end)))])[0] for end in (200, 10**12))
    assert far.prompt == near.prompt and np.array_equal(far.mask, near.mask)


class Speckled(BlobModel):
    """A model whose every answer has two specks, one of them at the window's edge, and a larger part, wherever one clicks."""

    def decode_logits(self, maps, reference, roi=None):
        logits = super().decode_logits(maps, reference, roi)
        logits[8:10, 8:10] = logits[40:42, :2] = 1.0
        logits[8:14, 40:46] = 1.0
        return logits


@pytest.mark.parametrize("finished", [False, True])
def test_small_parts_that_nobody_asked_for_are_dropped(finished):
    image = np.zeros((64, 64), np.uint8)
    image[20:44, 20:44] = 200
    decoding = decoding_of(image, Speckled())
    prompts = [Click((), 32, 32)]
    if finished:  # before: a speck is a part of it
        mask = np.zeros(image.shape, bool)
        mask[8:10, 8:10] = True
        prompts.insert(0, Mask((), Box.of(image.shape), mask))
    mask = mask_of(decoding.steps(prompts)[-1], image.shape)
    assert mask[32, 32] and mask[40, 0] and mask[10, 42] and mask[8, 8] == finished
    asked = mask_of(decoding.steps([*prompts, Click((), 9, 9)])[-1], image.shape)
    assert asked[8:10, 8:10].all()
    refused = mask_of(decoding.steps([*prompts, Click((), 10, 42, False)])[-1], image.shape)
    assert not refused[10, 42]


def test_the_same_prompts_give_the_same_mask_on_any_number_of_threads(default_model):
    image, labels = synthetic(np.random.default_rng(1), (192, 192), "tissue")
    features, before = encode(image, default_model), torch.get_num_threads()
    answers: dict[int, list[np.ndarray]] = {}
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            decoding = Decoding(features, default_model, features.source)
            for label in np.unique(labels)[1:4]:
                ys, xs = np.nonzero(labels == label)
                middle = len(ys) // 2
                prompts = [Click((), ys[middle], xs[middle]), Click((), ys[0], xs[0], False)]
                answers.setdefault(threads, []).append(mask_of(decoding.steps(prompts)[-1], image.shape[:2]))
    finally:
        torch.set_num_threads(before)
    for one, two, four in zip(*answers.values(), strict=True):
        assert (one != two).sum() <= 1  # docs/how-it-works.md: a pixel of which both logits are equal
        assert (one != four).sum() <= 1


@pytest.mark.parametrize(
    ("doubt", "across", "steady", "tried", "taken"),
    [
        (0.3, 40, -1, [0], 0),  # sure enough
        (0.2, 40, -2, [0, -1, 1, -2], -2),
        (0.2, 40, -5, [0, -1, 1, -2, -3], 0),  # the next ones alone
        (0.1, 40, -5, [0, -1, 1, -2, -3, -4, -5], -5),
        (0.1, 4, -5, [0, -1], 0),  # a speck, seen from farther away, is a smaller one
    ],
)
def test_a_first_answer_in_doubt_has_other_magnifications_tried(
    doubt, across, steady, tried, taken, monkeypatch
):
    size, asked = 8192, []
    planes = Planes.of(np.zeros((size, size), np.uint8), contrast=(0, 255))
    model = BlobModel()
    model.config = replace(model.config, diameters=(8.0, 60.0))
    decoding = Decoding(room_for(planes, model), model, planes)

    def answer_at(level, previous, prompt):
        asked.append(level)
        share = {0: doubt, steady: 0.9}.get(level, 0.2)
        mask = np.zeros((64, 64), bool)
        mask[:across, :across] = True
        view = View(level, Box(0, 0, 64, 64), np.zeros((64, 64), np.uint8), mask, share)
        return Step((prompt,), Box(0, 0, 64, 64), mask.copy(), view)

    monkeypatch.setattr(decoding, "_answer_at", answer_at)
    monkeypatch.setattr(decoding, "_turn", lambda step: 0)
    (step,) = decoding.steps([Click((), 40, 40)])
    assert asked == tried and step.view.level == taken


def test_a_box_is_filled_at_another_magnification_even_where_the_network_doubts():
    class Doubting(BlobModel):
        def decode_logits(self, maps, reference, roi=None):
            logits = super().decode_logits(maps, reference, roi)
            inner = binary_erosion(logits > 0, iterations=8)
            return np.where(inner, 4, np.where(logits > 0, -0.7, -4)).astype(np.float32)

    image = np.zeros((128, 128), np.uint8)
    image[32:96, 32:96] = 200
    planes, model = Planes.of(image, contrast=(0, 255)), Doubting()
    model.config = replace(model.config, diameters=(8.0, 32.0))
    decoding = Decoding(encode(image, model, contrast=(0, 255), device="cpu"), model, planes)
    (step,) = decoding.steps([BoxPrompt.between((32, 32), (95, 95))])
    mask = mask_of(step, image.shape)
    assert step.view.level == -1 and mask[33:95, 33:95].all() and not mask[image == 0].any()


def test_a_mask_of_all_the_image_is_not_looked_at_from_ever_farther_away():
    class Everything(BlobModel):
        def decode_logits(self, maps, reference, roi=None):
            return np.full(reference.shape, 4, np.float32)

    image = np.zeros((65, 130), np.uint8)
    planes, model = Planes.of(image, contrast=(0, 255)), Everything()
    model.config = replace(model.config, diameters=(4.0, 20.0))
    decoding = Decoding(encode(image, model, contrast=(0, 255), device="cpu"), model, planes)
    (step,) = decoding.steps([Click((), 50, 50)])
    assert step.view.level >= -3 and mask_of(step, image.shape).all()


def test_a_clicked_pixel_is_in_the_mask_though_nothing_near_it_is_seen_from_farther_away():
    clicks = Click((), 20, 16), Click((), 21, 17, False), Click((), 4, 60)
    box, mask = _in_image(np.full((32, 32), -1, np.float32), Box(0, 0, 32, 32), -1, clicks)
    assert np.argwhere(mask).tolist() == [[4 - box.top, 60 - box.left], [20 - box.top, 16 - box.left]]


def test_what_an_edited_object_has_that_is_not_seen_from_farther_away_stays_where_nothing_was_said():
    image = np.zeros((400, 400), np.uint8)
    image[200:203, 20:380] = 200  # three pixels wide
    planes, model = Planes.of(image, contrast=(0, 255)), BlobModel()
    model.config = replace(model.config, diameters=(8.0, 60.0))
    decoding = Decoding(encode(image, model, contrast=(0, 255), device="cpu"), model, planes)
    start = Mask((), Box(20, 200, 380, 203), np.ones((3, 360), bool))
    *_, step = decoding.steps([start, Click((), 20, 200, False)])
    mask = mask_of(step, image.shape)
    assert step.view.level < -1 and mask[image > 0].all()
    loose = Mask((), Box(0, 0, 400, 400), image > 0)  # the same in a box of another size
    *_, other = decoding.steps([loose, Click((), 20, 200, False)])
    np.testing.assert_array_equal(mask_of(other, image.shape), mask)


@pytest.mark.parametrize("positive", [True, False])
def test_a_line_longer_than_a_window_counts_all_along(positive):
    image = np.zeros((64, 1200), np.uint8)
    decoding = decoding_of(image, BlobModel())
    start = [Mask((), Box(0, 20, 1200, 40), np.ones((20, 1200), bool))] if not positive else []
    line = Scribble.along([(30, 10), (30, 1190)], positive)
    *_, step = decoding.steps([*start, line])
    assert (mask_of(step, image.shape)[30, 10:1191] == positive).all()


def test_numbers_of_numpy_are_positions_like_others():
    click = Click((), np.uint8(200), np.uint8(210))
    assert type(click.y) is int and (click.y << 1, click.x << 1) == (400, 420)


def test_a_scribble_is_told_as_clicks_in_a_row_with_its_middle_among_them():
    told = []

    class Listening(BlobModel):
        def decode_logits(self, maps, reference, roi=None):
            told.append(np.argwhere(reference == 4).tolist())
            return super().decode_logits(maps, reference, roi)

    model = Listening()
    model.config = replace(model.config, inner_radius=0)
    decoding = decoding_of(np.full((64, 64), 200, np.uint8), model)
    decoding.steps([Scribble.along([(32, 20), (32, 39)])])  # the 11th of 20 pixels is in the middle
    assert told == [[[32, 24], [32, 30], [32, 36]]]


@pytest.mark.parametrize(("doubt", "level"), [(False, 1), (True, 0)])
def test_an_answer_that_falls_apart_when_it_is_magnified_is_not_taken(doubt, level):
    class Apart(BlobModel):
        def decode_logits(self, maps, reference, roi=None):
            logits = super().decode_logits(maps, reference, roi)
            return logits.clip(-4, 1) if doubt and (logits > 0).sum() > 300 else logits

    image = np.zeros((64, 64), np.uint8)
    image[24:40, 24:40] = 200
    planes, model = Planes.of(image, contrast=(0, 255)), Apart()
    model.config = replace(model.config, diameters=(24.0, 60.0))
    decoding = Decoding(encode(image, model, contrast=(0, 255), device="cpu"), model, planes)
    (step,) = decoding.steps([Click((), 32, 32)])
    assert step.view.level == level
    np.testing.assert_array_equal(mask_of(step, image.shape), image > 0)
