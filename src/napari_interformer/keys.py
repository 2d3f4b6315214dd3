"""Keys on our own layers, as long as there is a session. No Qt, no napari.

Enters: what each key does, for each kind of layer. Leaves: napari's key bindings, and what was bound before, given back.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Actions = Mapping[str, Callable[[], None]]  # what keys do
    Bound = list[tuple[Any, str, Any]]  # a layer, a key, and what it did before

# As napari calls the command key, and as people do.
CTRL, COMMAND = ("Meta", "Cmd") if sys.platform == "darwin" else ("Control", "Ctrl")


class Keys:
    """Keys that are bound for a while.

    Parameters
    ----------
    actions : dict
        For each class of layer what its keys do: {Points: {"C": commit, ...}, ...}.
    do : callable
        Called with the action when its key is pressed.
    with_tool : dict
        For each class of layer what keys do besides while a tool of napari's (a mode of the layer) is on: {Shapes: {"add_path":
        {"T": sign}}, ...}. Otherwise they are napari's own.
    """

    def __init__(
        self,
        actions: Mapping[type[Any], Actions],
        do: Callable[[Callable[[], None]], None],
        with_tool: Mapping[type[Any], Mapping[str, Actions]],
    ) -> None:
        self._actions, self._do, self._with_tool = actions, do, with_tool
        self._bound: Bound = []
        self._for_now: Bound = []  # as long as a tool is on
        self._followed: list[tuple[Any, Callable[[Any], None]]] = []

    def bind(self, layer: Any) -> None:
        """Bind the keys of a layer's class on it."""
        for kind, keys in self._actions.items():
            if isinstance(layer, kind):
                self._bound += self._bind(layer, keys)
        for kind, tools in self._with_tool.items():
            if isinstance(layer, kind):
                follow = partial(self._follow, layer, tools)
                layer.events.mode.connect(follow)
                self._followed.append((layer, follow))
                follow()

    def _bind(self, layer: Any, keys: Actions) -> Bound:
        return [
            (layer, key, layer.bind_key(key, self._on_key(action), overwrite=True))
            for key, action in keys.items()
        ]

    def _follow(self, layer: Any, tools: Mapping[str, Actions], _: Any = None) -> None:
        """Bind what the tool that is on now asks for, in place of what the one before did."""
        _give_back(self._for_now)
        self._for_now += self._bind(layer, tools.get(str(layer.mode), {}))

    def _on_key(self, action: Callable[[], None]) -> Callable[[Any], None]:
        return lambda _: self._do(action)

    def release(self) -> None:
        """Give all keys back to what they did before."""
        for layer, follow in self._followed:
            layer.events.mode.disconnect(follow)
        self._followed.clear()
        _give_back(self._for_now)
        _give_back(self._bound)


def _give_back(bound: Bound) -> None:
    for layer, key, before in bound:
        layer.bind_key(key, before, overwrite=True)
    bound.clear()
