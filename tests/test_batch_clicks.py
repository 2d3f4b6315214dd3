"""Clicks on many objects at once do what clicks on one object do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from napari_interformer.batch_clicks import (
    DEPTH_RATIO,
    Clicks,
    all_columns,
    draw_clicks,
    fold_all,
    next_clicks,
    obey_all,
    squared_depths,
)
from napari_interformer.geometry import depth
from napari_interformer.reference import draw_click, fold, obey
from napari_interformer.simulate import next_click

COUNT, SHAPE = 24, (33, 47)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def blobs(rng, count=COUNT):
    """Smooth random masks, the first one empty and the second one full."""
    fields = gaussian_filter(rng.normal(size=(count, *SHAPE)), (0, 3, 3))
    fields[0], fields[1] = -1, 1
    return fields > 0


def test_squared_depths_are_the_distances_to_outside(rng):
    regions = blobs(rng)
    found = squared_depths(torch.from_numpy(regions)).sqrt().numpy()
    for region, got in zip(regions, found, strict=True):
        box, depths = depth(region)
        np.testing.assert_allclose(got[box.slices], depths, rtol=1e-6)
        assert not got[~region].any()


def test_a_gpu_finds_the_same_depths(rng):
    regions = torch.from_numpy(blobs(rng))
    assert torch.equal(squared_depths(regions), all_columns(regions))


def test_planes_are_worked_on_in_parts_without_a_difference(rng, monkeypatch):
    regions = torch.from_numpy(blobs(rng))
    whole = all_columns(regions)
    monkeypatch.setattr("napari_interformer.batch_clicks.AT_ONCE", 5 * SHAPE[0] * SHAPE[1] ** 2)
    assert torch.equal(all_columns(regions), whole)


def test_each_object_gets_the_click_it_would_get_alone(rng):
    masks, targets = blobs(rng), blobs(rng)
    clicks = next_clicks(torch.from_numpy(masks), torch.from_numpy(targets))
    assert not clicks.found[:2].any() and clicks.found[2:].all()  # these two agree with the truth
    for i in range(2, COUNT):
        assert (int(clicks.y[i]), int(clicks.x[i]), bool(clicks.positive[i])) == next_click(
            masks[i], targets[i]
        )


def test_in_training_clicks_fall_anywhere_deep_and_the_same_for_a_seed(rng):
    target = np.repeat(blobs(rng, 3)[2:], 200, 0)
    nothing = torch.zeros(target.shape, dtype=torch.bool)
    first, again = (
        next_clicks(nothing, torch.from_numpy(target), torch.Generator().manual_seed(1)) for _ in range(2)
    )
    box, depths = depth(target[0])
    deep = depths > depths.max() / DEPTH_RATIO
    drawn = np.zeros_like(deep)
    drawn[first.y - box.top, first.x - box.left] = True
    assert first.positive.all() and not (drawn & ~deep).any()
    assert drawn.sum() > 0.5 * min(deep.sum(), 200)
    assert torch.equal(first.y, again.y) and torch.equal(first.x, again.x)


@pytest.mark.parametrize("outer", [0, 3])
def test_clicks_are_drawn_as_one_by_one(outer, rng):
    before = rng.integers(0, 5, (COUNT, *SHAPE)).astype(np.uint8)
    y, x = rng.integers(0, SHAPE[0], COUNT), rng.integers(0, SHAPE[1], COUNT)
    positive, found = rng.random(COUNT) < 0.5, rng.random(COUNT) < 0.8
    clicks = Clicks(*(torch.from_numpy(values) for values in (y, x, positive, found)))
    drawn = draw_clicks(torch.from_numpy(before), clicks, 2, outer).numpy()
    for i in range(COUNT):
        alone = draw_click(before[i], y[i], x[i], positive[i], 2, outer) if found[i] else before[i]
        np.testing.assert_array_equal(drawn[i], alone)


def test_predictions_are_folded_as_one_by_one(rng):
    before, masks = rng.integers(0, 5, (COUNT, *SHAPE)).astype(np.uint8), blobs(rng)
    folded = fold_all(torch.from_numpy(before), torch.from_numpy(masks)).numpy()
    np.testing.assert_array_equal(folded, [fold(*pair) for pair in zip(before, masks, strict=True)])


def test_clicks_are_obeyed_as_one_by_one(rng):
    logits = gaussian_filter(rng.normal(size=(COUNT, *SHAPE)), (0, 3, 3)).astype(np.float32) * 20
    logits[0] = -3  # nothing agrees with a positive click
    places = np.stack(
        [rng.permutation(SHAPE[0] * SHAPE[1])[:4] for _ in range(COUNT)], 1
    )  # four of each, all apart
    history = [
        Clicks(
            torch.from_numpy(place // SHAPE[1]),
            torch.from_numpy(place % SHAPE[1]),
            torch.from_numpy(rng.random(COUNT) < 0.5),
            torch.from_numpy(rng.random(COUNT) < 0.8),
        )
        for place in places
    ]
    bent = obey_all(torch.from_numpy(logits), history).numpy()
    assert not np.array_equal(bent, logits)
    for i in range(COUNT):
        given = [
            (int(one.y[i]), int(one.x[i]), bool(one.positive[i])) for one in history if bool(one.found[i])
        ]
        np.testing.assert_allclose(bent[i], obey(logits[i], given), atol=1e-4)


def test_in_a_long_strip_of_which_only_the_end_agrees_a_click_is_obeyed_as_alone():
    logits = np.full((2, 60), -3, np.float32)
    logits[:, -1] = 3
    click = Clicks(*(torch.tensor([value]) for value in (0, 0, True, True)))
    bent = obey_all(torch.from_numpy(logits)[None], [click])[0].numpy()
    np.testing.assert_allclose(bent, obey(logits, [(0, 0, True)]), atol=1e-4)
