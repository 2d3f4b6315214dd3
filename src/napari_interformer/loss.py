"""What clicks teach: objects in their windows go in, and one loss comes out, with the clicks simulated on the way.

Follows the paper's recipe (Huang et al., ICCV 2023, section 4.1). Training and adapting learn by it alike.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from napari_interformer.batch_clicks import draw_clicks, fold_all, next_clicks, obey_all
from napari_interformer.decoder import resize
from napari_interformer.reference import State
from napari_interformer.settings import FINITE, SHARE, at_least, check_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from napari_interformer.model import InterFormer


@dataclass(frozen=True)
class ClickConfig:
    """How a model learns from clicks.

    Attributes
    ----------
    clicks : float
        The probability of n further clicks is proportional to this number to the power of n.
    max_clicks : int
        Greatest number of further clicks.
    auxiliary : float
        Weight of the auxiliary head's loss.
    dice : float
        Weight of the Dice loss (not in the paper), in which an object of a few pixels counts as much as a large one.
    """

    clicks: float = 0.6
    max_clicks: int = 20
    auxiliary: float = 0.4
    dice: float = 1.0

    allowed: ClassVar = {
        "clicks": SHARE,
        "max_clicks": at_least(0),
        "auxiliary": FINITE,
        "dice": FINITE,
    }

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense, before anything is read."""
        check_settings(self, self.allowed)


def click_loss(
    model: InterFormer,
    maps: list[Tensor],
    targets: Tensor,
    ignored: Tensor,
    config: ClickConfig,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Simulate clicks on each object, then decode once with gradient.

    Parameters
    ----------
    model : InterFormer
        In training or evaluation mode.
    maps : list of (N, C_i, w / s_i, w / s_i)
        Each object's window.
    targets : (N, w, w) bool
        The objects, on the maps' device.
    ignored : (N, w, w) bool
        Pixels that count for nothing; none is an object's.
    config : ClickConfig
        How many clicks, and what counts.
    rng : numpy.random.Generator
        How many and where.

    Returns
    -------
    loss : Tensor
        A number.
    first, last : Tensor
        Mean IoU after the first click, of the objects that got more, and with all clicks.
    """
    further = np.sort(rng.choice(config.max_clicks + 1, len(targets), p=click_chances(config)))[::-1]
    generator = torch.Generator(targets.device).manual_seed(int(rng.integers(2**31)))
    with torch.no_grad(), evaluating(model):
        detached = [level.detach() for level in maps]
        references, first = simulate(model, detached, targets, ignored, further, generator)
    # Autocast keeps the weights that it has cast. Before PyTorch 2.11 those cast without gradient would serve below,
    # and I-MSA and the head learn nothing (pytorch issue 65766).
    torch.clear_autocast_cache()
    logits, levels = model.decode_levels(maps, references)
    size = targets.shape[1:]
    # Pixels that count for nothing are surely background, as in the targets: no loss is left, and no gradient.
    answer = foreground(logits, size).masked_fill(ignored, -torch.inf)
    loss = normalised_focal_loss(answer, targets) + config.dice * dice_loss(answer, targets)
    if config.auxiliary:
        auxiliary = foreground(model.auxiliary_head(levels), size).masked_fill(ignored, -torch.inf)
        loss = loss + config.auxiliary * normalised_focal_loss(auxiliary, targets)
    last = mean_iou(answer.detach() > 0, targets)
    return loss, last if first is None else first, last


def click_chances(config: ClickConfig) -> NDArray[np.float64]:
    """Return P(n further clicks), n = 0 .. max_clicks."""
    chances = config.clicks ** np.arange(config.max_clicks + 1)
    return np.asarray(chances / chances.sum())


def simulate(
    model: InterFormer,
    maps: list[Tensor],
    targets: Tensor,
    ignored: Tensor,
    further: NDArray[np.integer],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor | None]:
    """Click into the errors of the model's own masks.

    Parameters
    ----------
    model : InterFormer
        In evaluation mode.
    maps : list of (N, C_i, w / s_i, w / s_i)
        Each object's window.
    targets : (N, w, w) bool
        The objects.
    ignored : (N, w, w) bool
        Pixels on which no error counts.
    further : (N,) int
        Each object's clicks after the first, most first: those that go on are then the first ones.
    generator : torch.Generator
        Where exactly.

    Returns
    -------
    references : (N, w, w) uint8
        The reference labels with one click more than was decoded.
    first : Tensor or None
        Mean IoU after the first click, of the objects that got more; None if none did.
    """
    inner, outer = model.config.inner_radius, model.config.outer_radius
    # The first click is at the deepest point, later ones somewhere deep (as the method has it).
    clicks = next_clicks(torch.zeros_like(targets), targets)
    states = torch.full(targets.shape, State.UNKNOWN, dtype=torch.uint8, device=targets.device)
    states = draw_clicks(states, clicks, inner, outer)
    going = int((further > 0).sum())
    if going == 0:
        return states, None
    prepared, history, first = model.prepare([level[:going] for level in maps]), [clicks], None
    for n in range(int(further[0])):
        going = int((further > n).sum())
        prepared, history = prepared.first(going), [clicks.first(going) for clicks in history]
        reference, truth = states[:going], targets[:going]
        logits, _ = model.decode_levels(prepared, reference)
        masks = obey_all(foreground(logits, truth.shape[1:]), history) > 0
        counted = masks & ~ignored[:going]
        first = mean_iou(counted, truth) if first is None else first
        history.append(next_clicks(counted, truth, generator))
        states[:going] = draw_clicks(fold_all(reference, masks), history[-1], inner, outer)
    return states, first


def normalised_focal_loss(answer: Tensor, targets: Tensor) -> Tensor:
    """Return the focal loss whose weights are rescaled, image by image, to sum to the pixel count.

    `answer` (N, Y, X) is as `foreground` returns it, `targets` (N, Y, X) bool. Alpha is 0.5, so object and background count
    alike, and gamma 2.
    """
    log_chance = F.logsigmoid(torch.where(targets, answer, -answer))
    weight = (1 - log_chance.exp()) ** 2
    with torch.no_grad():
        scale = weight[0].numel() / weight.sum((1, 2), keepdim=True).clamp_min(1e-6)
    return -(0.5 * scale * weight * log_chance).mean()


def dice_loss(answer: Tensor, targets: Tensor) -> Tensor:
    """Return one minus the soft Dice overlap, averaged over objects; shapes as above."""
    chance = answer.sigmoid()
    overlap, total = (chance * targets).sum((1, 2)), chance.sum((1, 2)) + targets.sum((1, 2))
    return (1 - (2 * overlap + 1) / (total + 1)).mean()


def foreground(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Return foreground minus background at full size: (N, 2, h, w) to (N, Y, X) float32."""
    full = resize(logits.float(), (size[0], size[1])).float()
    return full[:, 1] - full[:, 0]


def mean_iou(masks: Tensor, targets: Tensor) -> Tensor:
    """Return the mean IoU of two stacks of masks (N, Y, X); of two empty masks it is 1."""
    both, either = (masks & targets).sum((1, 2)), (masks | targets).sum((1, 2))
    return torch.where(either > 0, both / either.clamp_min(1), 1.0).mean()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode for a while."""
    was = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in was:
            module.training = training
