"""The loss of clicks: its parts are what the paper says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_interformer import loss


def test_the_focal_weights_of_an_image_sum_to_its_pixels():
    torch.manual_seed(0)
    logits = torch.randn(3, 2, 16, 16)
    targets = torch.rand(3, 16, 16) > 0.7
    difference = (logits[:, 1] - logits[:, 0]).double()
    chance = torch.where(targets, difference.sigmoid(), (-difference).sigmoid())
    weight = (1 - chance) ** 2
    weight = weight / weight.sum((1, 2), keepdim=True) * 256
    expected = -(0.5 * weight * chance.log()).mean()
    assert loss.normalised_focal_loss(logits, targets).item() == pytest.approx(expected.item(), rel=1e-4)


def test_dice_is_nought_for_a_perfect_mask_and_one_for_an_empty_one():
    targets = torch.zeros(1, 16, 16, dtype=torch.bool)
    targets[:, 4:9, 4:9] = True
    sign = torch.where(targets, 50.0, -50.0)
    assert loss.dice_loss(torch.stack([-sign, sign], 1), targets).item() < 1e-4
    assert loss.dice_loss(torch.stack([sign, -sign], 1), targets).item() > 0.9


def test_numbers_of_clicks_follow_the_papers_law():
    chances = loss.click_chances(loss.ClickConfig())
    assert len(chances) == 21 and chances.sum() == pytest.approx(1)
    np.testing.assert_allclose(chances[1:] / chances[:-1], 0.6)
