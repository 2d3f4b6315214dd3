"""Everything a fresh machine needs is one command away: ``python -m pip install nox && python -m nox -s SESSION``.

demo       set up and run the main job on the model in the package (napari opens; without a display it runs headless)
tests      set up, on Debian as root with the system libraries for a virtual display, and run the tests
oldest     the window's tests with the oldest napari that pyproject.toml admits
lint       ruff and mypy
wheel      build the wheel, install it alone, look inside, segment an image with it
docs       build the documentation; a warning is an error
benchmark  seconds of clicks and encoding beside a matrix product, compared with those in benchmarks/baseline.json
accuracy   clicks needed on a data set, beside seeded watershed and random walker
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["tests", "lint", "docs", "wheel"]
nox.options.reuse_venv = "yes"
# pip and no other installer: it alone looks where a site keeps its own torch build (find-links).
nox.options.default_venv_backend = "virtualenv"

PINS = ("-c", "constraints.txt")

# Debian's package -> the library that Qt 6 or OpenGL loads from it. Xvfb is a program and stands apart.
DISPLAY_LIBRARIES = {
    "libgl1": "libGL.so.1",
    "libegl1": "libEGL.so.1",
    "libopengl0": "libOpenGL.so.0",
    "libgl1-mesa-dri": "",  # drivers, found by Mesa and not by the loader: only dpkg can tell
    "libfontconfig1": "libfontconfig.so.1",
    "libglib2.0-0": "libglib-2.0.so.0",
    "libdbus-1-3": "libdbus-1.so.3",
    "libxkbcommon-x11-0": "libxkbcommon-x11.so.0",
    "libxcb-cursor0": "libxcb-cursor.so.0",
    "libxcb-icccm4": "libxcb-icccm.so.4",
    "libxcb-image0": "libxcb-image.so.0",
    "libxcb-keysyms1": "libxcb-keysyms.so.1",
    "libxcb-randr0": "libxcb-randr.so.0",
    "libxcb-render-util0": "libxcb-render-util.so.0",
    "libxcb-shape0": "libxcb-shape.so.0",
    "libxcb-xinerama0": "libxcb-xinerama.so.0",
}


def extras() -> dict[str, list[str]]:
    """Return what pyproject.toml lists under each extra."""
    found: dict[str, list[str]] = nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]
    return found


@nox.session
def demo(session: nox.Session) -> None:
    """Run the main job: open the sample in napari, ready to click, or segment it headless."""
    session.install(*PINS, "-e", ".[all]")
    session.run("napari-interformer", "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests; the window's tests drive a real viewer on a virtual display."""
    provide_virtual_display(session)
    session.install(*PINS, "-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def oldest(session: nox.Session) -> None:
    """Run the tests that need napari with the oldest napari that pyproject.toml admits."""
    provide_virtual_display(session)
    (number,) = (
        wanted.removeprefix("napari>=") for wanted in extras()["all"] if wanted.startswith("napari>=")
    )
    session.install(*PINS, "-e", ".[test]", f"napari=={number}")
    # An old napari calls what others have deprecated since, and NumPy warns of how it draws shapes; `tests` sees our own.
    accepted = "ignore::DeprecationWarning", "ignore:'where' used without 'out':UserWarning"
    ours = re.compile(r"^\s*(from|import) (napari|qtpy|window)\b|^pytest_plugins = .*\bpanel\b", re.MULTILINE)
    paths = sorted(
        str(path) for path in Path("tests").glob("test_*.py") if ours.search(path.read_text("utf-8"))
    )
    session.run(
        *("pytest", *paths),
        *(part for warning in accepted for part in ("-W", warning)),
        *session.posargs,
    )


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and types."""
    session.install(*PINS, "-e", ".[lint]", "nox")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into site/; with ``-- serve``, serve it while you write."""
    session.install(*PINS, *extras()["docs"])
    if session.posargs == ["serve"]:
        session.run("mkdocs", "serve")
        return
    # Material announces its successor at every build; that is not a warning about our pages.
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def benchmark(session: nox.Session) -> None:
    """Fail where anything takes a quarter longer, measured in matrix products, than when the baseline was written."""
    session.install(*PINS, "-e", ".")
    session.run("python", "benchmarks/speed.py", "--check", "benchmarks/baseline.json", *session.posargs)


@nox.session
def accuracy(session: nox.Session) -> None:
    """Count clicks: ``python -m nox -s accuracy -- FOLDER --baselines``; ``-- --help`` lists the options."""
    session.install(*PINS, "-e", ".[train]")
    session.run("napari-interformer", "benchmark", *session.posargs)


# What the installed wheel must hold, asked away from the work tree so that nothing is found there by accident.
INSIDE_THE_WHEEL = """
from importlib import metadata, resources, util
package = resources.files("napari_interformer")
manifest = package / "napari.yaml"
assert manifest.is_file(), "the wheel lacks napari.yaml"
(entry,) = [e for e in metadata.entry_points(group="napari.manifest") if e.name == "napari-interformer"]
assert entry.value == "napari_interformer:napari.yaml", entry.value
weights = [f for f in (package / "weights").iterdir() if f.name.endswith(".safetensors")]
assert weights, "the wheel lacks weights/*.safetensors"
assert (package / "py.typed").is_file(), "the wheel lacks py.typed"
assert util.find_spec("napari") is None, "a plain install must not bring napari along"
import napari_interformer as ni
from napari_interformer.samples import cells
import tifffile
model = ni.load_model()
image, truth = cells(seed=1)
tifffile.imwrite("cells.tif", image)
print("weights:", ", ".join(f"{f.name} {f.stat().st_size / 1e6:.1f} MB" for f in weights))
"""


@nox.session(reuse_venv=False)
def wheel(session: nox.Session) -> None:
    """Build the wheel, install it alone in a fresh environment, check what is in it and segment an image."""
    folder = Path(session.create_tmp()).resolve()
    shutil.rmtree(folder / "dist", ignore_errors=True)
    session.run(
        "python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder / "dist"), "."
    )
    (built,) = (folder / "dist").glob("napari_interformer-*.whl")
    size = built.stat().st_size
    session.log(f"{built.name}: {size / 1e6:.1f} MB")
    if size > 24e6:
        session.error(f"the wheel takes {size / 1e6:.1f} MB; at most 20 MB of it may be weights")
    session.install(*PINS, str(built))
    with session.chdir(folder):
        session.run("python", "-c", INSIDE_THE_WHEEL)
        session.run(
            *("napari-interformer", "segment", "cells.tif", "--click", "256,256"),
            *("-o", "labels.tif", "--overlay", "overlay.png"),
        )
        session.install("npe2")
        session.run("npe2", "validate", "napari-interformer")


def provide_virtual_display(session: nox.Session) -> None:
    """On Linux, see that Xvfb and the libraries of Qt 6 are there; install them on Debian as root, else name them."""
    if not sys.platform.startswith("linux"):
        return
    debian = shutil.which("dpkg-query") is not None
    missing = [
        package for package, library in DISPLAY_LIBRARIES.items() if not there(package, library, debian)
    ]
    if not shutil.which("Xvfb"):
        missing.insert(0, "xvfb")
    if not missing:
        return
    if debian and shutil.which("apt-get") and os.geteuid() == 0:
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        session.run("apt-get", "-qq", "update", external=True, env=quiet)
        session.run(
            *("apt-get", "-qq", "install", "-y", "--no-install-recommends", *missing),
            external=True,
            env=quiet,
        )
    elif missing == ["xvfb"] and os.environ.get("DISPLAY"):
        session.warn(
            "Xvfb is not installed: the window's tests will open on your screen; leave the mouse alone."
        )
    elif debian:
        session.error(f"The window's tests need system libraries: sudo apt-get install {' '.join(missing)}")
    else:
        wanted = [DISPLAY_LIBRARIES.get(package) or package for package in missing]
        session.error(
            f"The window's tests need {', '.join(wanted)}: install them with your package manager "
            f"(Debian calls the packages {' '.join(missing)}) and run this again."
        )


def there(package: str, library: str, debian: bool) -> bool:
    """Tell whether a shared library can be loaded; where it has no name to load, ask dpkg or trust that it is."""
    if library:
        try:
            ctypes.CDLL(library)
        except OSError:
            return False
        return True
    if not debian:
        return True
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    return answer.stdout == "installed"
