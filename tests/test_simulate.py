"""The simulated user."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis.extra.numpy import arrays
from scipy.ndimage import distance_transform_edt

from napari_interformer.simulate import next_click

masks = arrays(bool, (11, 13))


@given(masks, masks)
def test_the_click_is_the_deepest_point_of_the_deeper_error(mask, target):
    click = next_click(mask, target)
    missed = distance_transform_edt(np.pad(target & ~mask, 1))[1:-1, 1:-1]
    wrong = distance_transform_edt(np.pad(mask & ~target, 1))[1:-1, 1:-1]
    if click is None:
        assert (mask == target).all()
        return
    y, x, positive = click
    assert positive == target[y, x] and mask[y, x] != target[y, x]
    assert (missed if positive else wrong)[y, x] == max(missed.max(), wrong.max())
    assert positive == (missed.max() > wrong.max()), (
        "of errors that are equally deep, the one outside of the object"
    )


@given(masks, masks, masks)
def test_nobody_clicks_on_ignored_pixels(mask, target, ignore):
    click = next_click(mask, target, ignore=ignore)
    assert click is None or not ignore[click[:2]]
