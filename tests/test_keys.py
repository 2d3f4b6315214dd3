"""Keys on layers: each kind gets its own, and what was bound before comes back."""

from __future__ import annotations

import numpy as np
from napari.layers import Labels, Points, Shapes

from napari_interformer.keys import Keys


def pressed(layer, key):
    (bound,) = (action for binding, action in layer.keymap.items() if str(binding) == key)
    bound(layer)


def test_each_kind_of_layer_gets_its_keys_until_they_are_released():
    done, points, labels = [], Points(), Labels(np.zeros((4, 4), int))
    points.bind_key("C", lambda _: done.append("before"))
    keys = Keys(
        {
            Points: {"C": lambda: done.append("commit"), "F": lambda: done.append("flip")},
            Labels: {"T": lambda: done.append("sign")},
        },
        lambda action: action(),
        {},
    )
    for layer in (points, labels):
        keys.bind(layer)
    assert [str(key) for key in labels.keymap] == ["T"]
    for layer, key in ((points, "C"), (points, "F"), (labels, "T")):
        pressed(layer, key)
    keys.release()
    assert not labels.keymap and [str(key) for key in points.keymap] == ["C"]
    pressed(points, "C")
    assert done == ["commit", "flip", "sign", "before"]


def test_an_action_is_left_to_whoever_does_it():
    asked = []

    def act():
        raise AssertionError("nobody did it")

    layer = Points()
    Keys({Points: {"C": act}}, asked.append, {}).bind(layer)
    pressed(layer, "C")
    assert asked == [act]


def test_a_key_that_is_for_a_tool_is_napari_s_while_another_is_on():
    done, shapes = [], Shapes()
    shapes.bind_key("T", lambda _: done.append("before"))
    tools = {"add_path": {"T": lambda: done.append("sign")}, "add_line": {"U": lambda: done.append("line")}}
    keys = Keys({Shapes: {"C": lambda: done.append("commit")}}, lambda action: action(), {Shapes: tools})
    shapes.mode = "add_path"
    keys.bind(shapes)
    pressed(shapes, "T")
    for tool, key in (
        ("select", "T"),
        ("add_line", "U"),
        ("add_line", "T"),
        ("add_path", "T"),
        ("add_path", "C"),
    ):
        shapes.mode = tool
        pressed(shapes, key)
    assert {str(key) for key in shapes.keymap} == {"C", "T"}
    keys.release()
    pressed(shapes, "T")
    for tool in ("select", "add_line", "add_path"):
        shapes.mode = tool
        assert [str(key) for key in shapes.keymap] == ["T"]
    pressed(shapes, "T")
    assert done == ["sign", "before", "line", "before", "sign", "commit", "before", "before"]
