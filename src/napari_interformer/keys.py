"""Keys on our own layers, as long as there is a session. No Qt, no napari.

Enters: what each key does, for each kind of layer. Leaves: napari's key bindings, and what was bound before, given back.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CTRL = "Meta" if sys.platform == "darwin" else "Control"  # napari calls the command key so


class Keys:
    """Keys that are bound for a while.

    Parameters
    ----------
    actions : dict
        For each class of layer what its keys do: {Points: {"C": commit, ...}, ...}.
    do : callable
        Called with the action when its key is pressed.
    """

    def __init__(
        self,
        actions: Mapping[type[Any], Mapping[str, Callable[[], None]]],
        do: Callable[[Callable[[], None]], None],
    ) -> None:
        self._actions, self._do = actions, do
        self._bound: list[tuple[Any, str, Any]] = []

    def bind(self, layer: Any) -> None:
        """Bind the keys of a layer's class on it."""
        for kind, keys in self._actions.items():
            if isinstance(layer, kind):
                for key, action in keys.items():
                    before = layer.bind_key(key, self._on_key(action), overwrite=True)
                    self._bound.append((layer, key, before))

    def _on_key(self, action: Callable[[], None]) -> Callable[[Any], None]:
        def pressed(_: Any) -> None:
            self._do(action)

        return pressed

    def release(self) -> None:
        """Give all keys back to what they did before."""
        for layer, key, before in self._bound:
            layer.bind_key(key, before, overwrite=True)
        self._bound.clear()
