"""The house's plan holds: nothing left of layers.py knows of napari or Qt, and importing the package costs little."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import napari_interformer as ni

PACKAGE = Path(ni.__file__).parent
PYPROJECT = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text("utf-8"))
# Which may import napari says the linter; encodes.py and lessons.py work in a thread that reports to Qt.
NAPARI_SIDE = {"encodes", "lessons"} | {
    Path(name).stem
    for name, rules in PYPROJECT["tool"]["ruff"]["lint"]["per-file-ignores"].items()
    if name.startswith("src/") and "TID251" in rules
}
WITHOUT_WINDOW = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem not in NAPARI_SIDE)
ON_LAYERS = ["clicks", "drawings", "labels", "layers"]
QT = {"qtpy", "PyQt5", "PyQt6", "PySide2", "PySide6", "superqt"}


def loaded_by(statement: str) -> set[str]:
    """Run a statement in a fresh interpreter and return the top-level names of all that it loaded."""
    told = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """Return what is loaded once a room, the first of ours, is imported: names of our rooms, and of packages.

    All in one interpreter, as other packages take seconds to load; so those that load napari come last.
    """
    told = f"""
import importlib, sys
for room in {WITHOUT_WINDOW + ON_LAYERS}:
    for name in [name for name in sys.modules if name.split(".")[0] == "napari_interformer"]:
        del sys.modules[name]
    importlib.import_module("napari_interformer" if room == "__init__" else f"napari_interformer.{{room}}")
    names = [name.removeprefix("napari_interformer.") for name in sys.modules]
    print(room, *{{name.split(".")[0] for name in names}})
"""
    run = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return {room: set(names) for room, *names in map(str.split, run.stdout.splitlines())}


def test_rooms_load_neither_napari_nor_qt(loaded: dict[str, set[str]]) -> None:
    unwanted = QT | {"napari", "magicgui", "vispy"}
    assert {room: found for room in WITHOUT_WINDOW if (found := loaded[room] & unwanted)} == {}


def test_layers_load_no_qt(loaded: dict[str, set[str]]) -> None:
    assert "napari" in loaded[ON_LAYERS[-1]]
    assert {room: found for room in ON_LAYERS if (found := loaded[room] & QT)} == {}


def test_crops_know_nothing_of_the_network(loaded: dict[str, set[str]]) -> None:
    assert not loaded["crops"] & {"model", "encoder", "decoder", "loss", "train"}


def test_package_import_loads_neither_torch_nor_napari_nor_numpy() -> None:
    assert not loaded_by("import napari_interformer") & {"torch", "napari", "zarr", "skimage", "numpy"}


def test_command_line_help_loads_no_torch() -> None:
    statement = (
        "import contextlib, io\nfrom napari_interformer.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n    main(['--help'])"
    )
    assert "torch" not in loaded_by(statement)


def test_what_is_imported_is_declared() -> None:
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    lines = [
        *project["dependencies"],
        *(line for name in ("all", "cluster", "train") for line in extras[name]),
    ]
    declared = {re.split(r"[^\w-]", line)[0].lower() for line in lines}
    used = set()
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                used |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                used.add(str(node.module).split(".")[0])
    brought = {"qtpy"}  # napari's own, and only the window's
    found = packages_distributions()
    foreign = used - set(sys.stdlib_module_names) - brought - {"napari_interformer"}
    assert {name for name in foreign if not declared & {one.lower() for one in found.get(name, [])}} == set()


def test_public_names_load_on_first_use() -> None:
    for name in ni.__all__:
        assert getattr(ni, name) is not None
        assert name in dir(ni)


def test_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(AttributeError, match="load_model"):
        ni.no_such_name  # noqa: B018 - looking it up is the test


def test_root_manifest_is_the_packages() -> None:
    root = Path(__file__).resolve().parents[1] / "napari.yaml"
    assert root.read_bytes() == (PACKAGE / "napari.yaml").read_bytes()


def test_every_name_in_the_manifest_can_be_imported() -> None:
    from npe2 import PluginManifest

    manifest = PluginManifest.from_file(PACKAGE / "napari.yaml")
    manifest.validate_imports()
