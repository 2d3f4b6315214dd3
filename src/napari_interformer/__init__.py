"""Click on an object, get its mask at once: InterFormer (Huang et al., ICCV 2023) for napari, scripts and the shell.

The public names are loaded on first use, so that ``import napari_interformer`` costs milliseconds and loads
neither torch nor napari.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_interformer.adapting import adapt as adapt
    from napari_interformer.checkpoint import load_model as load_model
    from napari_interformer.checkpoint import save_model as save_model
    from napari_interformer.encoding import encode as encode
    from napari_interformer.features import Features as Features
    from napari_interformer.geometry import Box as Box
    from napari_interformer.image import Planes as Planes
    from napari_interformer.prompts import BoxPrompt as BoxPrompt
    from napari_interformer.prompts import Click as Click
    from napari_interformer.prompts import Mask as Mask
    from napari_interformer.prompts import NotEncodedError as NotEncodedError
    from napari_interformer.prompts import Scribble as Scribble
    from napari_interformer.session import Session as Session

__version__ = "0.1.0"
NAME = "napari-interformer"  # of the package, its command and its plugin
DEFAULT_MODEL = "default"  # the name of the model in the package
# What some commands need besides, by its name in pyproject.toml; there is no release to install it from yet.
GET_EXTRA = 'python -m pip install ".[{}]" in your clone of the repository'

_HOME = {
    "Box": "napari_interformer.geometry",
    "BoxPrompt": "napari_interformer.prompts",
    "Click": "napari_interformer.prompts",
    "Features": "napari_interformer.features",
    "Mask": "napari_interformer.prompts",
    "NotEncodedError": "napari_interformer.prompts",
    "Planes": "napari_interformer.image",
    "Scribble": "napari_interformer.prompts",
    "Session": "napari_interformer.session",
    "adapt": "napari_interformer.adapting",
    "encode": "napari_interformer.encoding",
    "load_model": "napari_interformer.checkpoint",
    "save_model": "napari_interformer.checkpoint",
}

# Spelled out, since type checkers and editors read it.
__all__ = [
    "Box",
    "BoxPrompt",
    "Click",
    "Features",
    "Mask",
    "NotEncodedError",
    "Planes",
    "Scribble",
    "Session",
    "__version__",
    "adapt",
    "encode",
    "load_model",
    "save_model",
]


def __getattr__(name: str) -> object:
    """Load a public name from its module on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # the next use finds it without coming here
    return value


def __dir__() -> list[str]:
    """List the public names beside what is loaded already."""
    return sorted(set(globals()) | set(__all__))
