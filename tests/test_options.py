"""What people type, read."""

from __future__ import annotations

import click
import pytest

from napari_interformer.geometry import Box
from napari_interformer.options import box_of, click_of, object_of, typed
from napari_interformer.prompts import BoxPrompt, Click, Scribble


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,2", Click((), 1, 2)),
        ("3,1,2,+", Click((3,), 1, 2)),
        ("3,1,2,-", Click((3,), 1, 2, False)),
        (" 0, 3, 1 , 2 ,-", Click((0, 3), 1, 2, False)),
    ],
)
def test_clicks_are_read_as_typed(text: str, expected: object) -> None:
    assert click_of(text) == expected


def test_boxes_are_read_as_typed_from_any_two_opposite_corners() -> None:
    assert box_of("100,60,141,97") == box_of("141, 60, 100, 97") == BoxPrompt((), Box(60, 100, 98, 142))
    assert box_of("0,3,1,2,1,2") == BoxPrompt((0, 3), Box(2, 1, 3, 2))
    assert object_of("3,5,6,- box:3,1,2,7,9") == [
        Click((3,), 5, 6, False),
        BoxPrompt((3,), Box(2, 1, 10, 8)),
    ]
    for text in ("100,60,141,97", "3,1,2,7,9"):
        assert typed(box_of(text)) == text
    assert typed(click_of("3,5,6,-")) == "3,5,6,-"


def test_lines_are_clicks_with_more_points() -> None:
    assert click_of("1,2/3,4") == Scribble((), ((1, 2), (3, 4)))
    assert click_of("0, 7, 1,2 / 3,4/5,6 ,-") == Scribble((0, 7), ((1, 2), (3, 4), (5, 6)), False)
    assert object_of("7,1,2 7,1,2/3,4,-")[1] == Scribble((7,), ((1, 2), (3, 4)), False)
    for text in ("1,2/3,4", "7,1,2/3,4/5,6,-"):
        assert typed(click_of(text)) == text
    for text in ("1,2/3", "1,2/7,3,4", "1/2", "1,2/", "1,2/3,a", "1,2/,-"):
        with pytest.raises(click.BadParameter, match="a click is"):
            click_of(text)
