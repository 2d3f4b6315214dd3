"""The loss of clicks: its parts are what the paper says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from learning import SMALLEST
from napari_interformer import loss
from napari_interformer.model import InterFormer
from napari_interformer.reference import State


def test_the_focal_weights_of_an_image_sum_to_its_pixels():
    torch.manual_seed(0)
    logits = torch.randn(3, 2, 16, 16)
    targets = torch.rand(3, 16, 16) > 0.7
    difference = (logits[:, 1] - logits[:, 0]).double()
    chance = torch.where(targets, difference.sigmoid(), (-difference).sigmoid())
    weight = (1 - chance) ** 2
    weight = weight / weight.sum((1, 2), keepdim=True) * 256
    expected = -(0.5 * weight * chance.log()).mean()
    found = loss.normalised_focal_loss(loss.foreground(logits, (16, 16)), targets)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


def test_dice_is_nought_for_a_perfect_mask_and_one_for_an_empty_one():
    targets = torch.zeros(1, 16, 16, dtype=torch.bool)
    targets[:, 4:9, 4:9] = True
    sure = torch.where(targets, 100.0, -100.0)
    assert loss.dice_loss(sure, targets).item() < 1e-4
    assert loss.dice_loss(-sure, targets).item() > 0.9


@pytest.mark.parametrize("part", [loss.normalised_focal_loss, loss.dice_loss])
def test_a_loss_is_that_of_the_pixels_that_are_not_ignored(part):
    torch.manual_seed(0)
    answer, targets = torch.randn(3, 16, 16, requires_grad=True), torch.rand(3, 16, 16) > 0.7
    targets[..., 8:] = False
    ignored = torch.zeros_like(targets)
    ignored[..., 8:] = True
    found = part(answer.masked_fill(ignored, -torch.inf), targets)
    assert found.item() == pytest.approx(part(answer[..., :8], targets[..., :8]).item())
    found.backward()
    assert answer.grad.isfinite().all() and not answer.grad[..., 8:].any() and answer.grad[..., :8].all()


class Everything:
    """Stands in for a model that takes all for the object."""

    config = SMALLEST

    def prepare(self, maps):
        return self

    def first(self, count):
        return self

    def decode_levels(self, maps, references):
        sure = torch.ones(len(references), 8, 8)
        return torch.stack([-sure, sure], 1), None


def test_nobody_clicks_on_ignored_pixels_and_no_overlap_counts_them():
    targets, ignored = torch.zeros(2, 2, 32, 32, dtype=torch.bool)
    targets[:, 12:20, 4:8] = True
    ignored[:, :, 8:24] = True  # a stripe of background is left at the right, and a narrow one at the left
    generator = torch.Generator().manual_seed(0)
    references, first = loss.simulate(Everything(), [], targets, ignored, np.array([1, 1]), generator)
    wrong = references == State.BACKGROUND
    assert wrong.flatten(1).any(1).all() and not wrong[..., :24].any()
    assert first.item() == pytest.approx(32 / (32 * 16))


def test_numbers_of_clicks_follow_the_papers_law():
    chances = loss.click_chances(loss.ClickConfig())
    assert len(chances) == 21 and chances.sum() == pytest.approx(1)
    np.testing.assert_allclose(chances[1:] / chances[:-1], 0.6)


class OnePixelClicks(Everything):
    """Shows in the reference label how often was clicked where."""

    config = replace(SMALLEST, inner_radius=0)


def test_while_clicks_are_simulated_a_model_that_does_not_follow_is_not_told_the_same_again():
    targets, ignored = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    targets[:, 4:8, 4:12] = True
    generator = torch.Generator().manual_seed(0)
    references, _ = loss.simulate(OnePixelClicks(), [], targets, ignored, np.array([12]), generator)
    assert ((references == State.FOREGROUND) | (references == State.BACKGROUND)).sum() == 13


def test_what_the_model_says_of_ignored_pixels_is_told_to_it_again():
    targets, ignored = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    targets[:, 12:20, 4:12] = True
    ignored[:, :, 28:] = True
    generator = torch.Generator().manual_seed(0)
    references, _ = loss.simulate(Everything(), [], targets, ignored, np.array([1]), generator)
    assert (references[ignored] == State.POSSIBLE_FOREGROUND).all()


def test_the_focal_weights_are_rescaled_without_gradient():
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 2, 8, 8, requires_grad=True), torch.rand(2, 8, 8) > 0.7
    difference = logits[:, 1] - logits[:, 0]
    chance = torch.where(targets, difference, -difference).sigmoid()
    weight = (1 - chance) ** 2
    scale = 64 / weight.detach().sum((1, 2), keepdim=True)
    (expected,) = torch.autograd.grad(-(0.5 * scale * weight * chance.log()).mean(), logits)
    (found,) = torch.autograd.grad(loss.normalised_focal_loss(difference, targets), logits)
    torch.testing.assert_close(found, expected)


def test_the_auxiliary_head_counts_as_much_as_asked_for():
    torch.manual_seed(0)
    model = InterFormer(SMALLEST).eval()
    targets, ignored = torch.zeros(2, 2, 64, 64, dtype=torch.bool)
    targets[:, 20:40, 20:40] = True
    with torch.no_grad():
        maps = model.encode(torch.randn(2, 3, 64, 64))
        none, some, all_ = (
            loss.click_loss(
                model,
                maps,
                targets,
                ignored,
                loss.ClickConfig(max_clicks=0, auxiliary=auxiliary),
                np.random.default_rng(0),
            )[0].item()
            for auxiliary in (0.0, 0.4, 1.0)
        )
    assert all_ - none > 0.01 and some - none == pytest.approx(0.4 * (all_ - none), rel=1e-3)


def test_two_empty_masks_overlap_as_well_as_can_be():
    masks, targets = torch.zeros(2, 2, 4, 4, dtype=torch.bool)
    masks[1, :2] = targets[1, :1] = True
    assert loss.mean_iou(masks, targets).item() == 0.75
