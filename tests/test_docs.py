"""What the documentation shows works: its Python runs, its commands exist, its pictures are there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from napari_interformer import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of one language in a page."""
    return re.findall(
        rf"^```{language}\b[^\n]*\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )


@pytest.mark.parametrize("page", ["console.md", "napari.md", "three-ways.md", "training.md"])
def test_python_runs_as_shown(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = blocks(ROOT / "docs" / page, "python")
    assert code
    names: dict[str, object] = {"viewer": viewer_with_the_sample()}
    tifffile.imwrite("labels.ome.tif", np.eye(9, dtype=np.uint8))  # as if saved from the window
    for number, block in enumerate(code, 1):
        exec(compile(block, f"{page}, block {number}", "exec"), names)


def viewer_with_the_sample() -> object:
    """Return what napari's console calls `viewer`, without its window, with a plane and a stack."""
    from napari.components import ViewerModel

    from napari_interformer.samples import cells

    viewer = ViewerModel()
    viewer.add_image(cells()[0], name="cells")
    viewer.add_image(cells()[0][None], name="stack")
    return viewer


def commands() -> list[str]:
    """Return every napari-interformer command line that the pages show."""
    found = []
    for page in PAGES:
        for block in blocks(page, "(?:bash|console|sh)"):
            whole = block.replace("\\\n", " ")
            found += [
                line.lstrip("$ ")
                for line in whole.splitlines()
                if line.lstrip("$ ").startswith("napari-interformer ")
            ]
    return sorted(set(found))


def test_pages_show_commands() -> None:
    assert {shlex.split(line)[1] for line in commands()} >= {
        "encode",
        "segment",
        "train",
        "benchmark",
        "convert",
        "demo",
    }


@pytest.mark.parametrize("line", commands())
def test_command_lines_are_understood(line: str) -> None:
    _, name, *arguments = shlex.split(line, comments=True)
    command = cli.app.get_command(click.Context(cli.app), name)
    assert command is not None
    if arguments == ["--help"]:
        with pytest.raises(click.exceptions.Exit):
            command.make_context(name, arguments)
        return
    # Raises a UsageError where an option does not exist or takes another value.
    command.make_context(name, arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pictures_are_there_and_small(page: Path) -> None:
    for name in re.findall(r"!\[[^\]]*\]\(([^)\s]+)", page.read_text("utf-8")):
        picture = page.parent / name
        assert picture.is_file(), f"{page.name} shows {name}, which is not there"
        assert picture.stat().st_size < 400_000, f"{name} is too large for a page"


def test_the_script_that_makes_the_pictures_works(tmp_path: Path) -> None:
    """One of its pictures; the others are made in the same way, which takes minutes."""
    script = """
import sys
from pathlib import Path
from napari_interformer import samples
whole = samples.cells
samples.cells = lambda: tuple(one[:320, :352] for one in whole())  # with all that is shown
import make_figures
folder = Path(sys.argv[1])
make_figures.journal.folder = lambda: folder / "journal"
make_figures.canvas_with_boxes(folder / "boxes.png")
"""
    subprocess.run([sys.executable, "-c", script, tmp_path], cwd=ROOT / "docs", check=True, timeout=300)
    assert iio.imread(tmp_path / "boxes.png").std() > 10
