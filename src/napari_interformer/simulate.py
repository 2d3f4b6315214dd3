"""The simulated user, who is given a mask and the truth and says where the next click goes.

Serves the benchmark, and says what `batch_clicks`, which is quick enough for training, does (Huang et al., ICCV 2023, sections
4.1 and 4.2). NumPy and SciPy only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_interformer.geometry import depth

if TYPE_CHECKING:
    from numpy.typing import NDArray


def next_click(
    mask: NDArray[np.bool_],
    target: NDArray[np.bool_],
    *,
    ignore: NDArray[np.bool_] | None = None,
) -> tuple[int, int, bool] | None:
    """Click into the deeper of the two error regions; where they are equally deep, outside of the object.

    The rule for ties is the reference's, and of those before it: small objects have a tie at every third click.

    Parameters
    ----------
    mask, target : (Y, X) bool
        What was predicted and what is true.
    ignore : (Y, X) bool, optional
        Pixels on which no error counts.

    Returns
    -------
    (y, x, positive) or None
        Positive where the object was missed; None where mask and target agree.
    """
    missed, wrong = target & ~mask, mask & ~target
    if ignore is not None:
        missed, wrong = missed & ~ignore, wrong & ~ignore
    missed_box, missed_depth = depth(missed)
    wrong_box, wrong_depth = depth(wrong)
    positive = bool(missed_depth.max(initial=0) > wrong_depth.max(initial=0))
    box, depths = (missed_box, missed_depth) if positive else (wrong_box, wrong_depth)
    if box.empty:
        return None
    y, x = divmod(int(np.argmax(depths)), depths.shape[1])
    return box.top + y, box.left + x, positive
