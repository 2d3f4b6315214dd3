"""The command line: options go in, one call into the library follows, a sentence comes out.

Only the modules of the command line print: this one, `segmenting`, `demo` and `terminal`. Results go to standard
output; progress and errors go to standard error. Exit codes: 0 done, 1 it failed, 2 wrong use of the command, 129 its
terminal was closed (SIGHUP), 130 interrupted, 143 ended by a batch system (SIGTERM). Heavy imports are inside the commands, so
that ``--help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import traceback
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click

from napari_interformer import DEFAULT_MODEL, GET_EXTRA, NAME, __version__
from napari_interformer.options import (
    BOX,
    BOX_MARK,
    CLICK,
    FILE,
    ConfigCommand,
    box_of,
    click_of,
    flag_of,
    image_options,
    length_of,
    model_option,
    object_of,
    store_of,
    tile_of,
)
from napari_interformer.settings import of_process
from napari_interformer.terminal import as_interrupt, bar, between_steps, count, first_process
from napari_interformer.units import duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from napari_interformer.prompts import BoxPrompt, Given, Mark
    from napari_interformer.train import Progress, TrainConfig


# ------------------------------------------------------------------------------------------ commands


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(__version__, prog_name=NAME)
@click.option("--debug", is_flag=True, help="Log what is done, and show the traceback of an error.")
def app(debug: bool) -> None:
    """Click on an object, get its mask: encode an image once, then every click is answered at once."""
    import logging

    level = logging.DEBUG if debug else logging.WARNING
    handler = logging.StreamHandler()
    handler.setLevel(level)  # Dask's own loggers speak from INFO on, whatever the root's level is
    logging.basicConfig(level=level, format="%(name)s: %(message)s", handlers=[handler])
    # It logs what it then raises; the command line says it once, in one sentence.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)


@app.command()
@click.argument("image", type=FILE)
@click.option(
    "-o",
    "--output",
    type=store_of,
    metavar="PATH",
    help="Where to keep the features.  [default: IMAGE.features.zarr]",
)
@click.option(
    "--tile",
    type=tile_of,
    metavar="N|whole",
    help='Side in pixels of the square tiles in which planes are encoded, or "whole" for whole planes.  '
    "[default: as a store that exists has it, or else as in training; a plane that is hardly larger is one]",
)
@click.option("--halo", type=int, help="How far tiles overlap, in pixels.  [default: an eighth of a tile]")
@click.option(
    "--scheduler", metavar="ADDRESS", help="Address of a Dask cluster to do the work: tcp://HOST:PORT."
)
@click.option(
    "--jobqueue",
    metavar="NAME",
    help="Batch system to start Dask workers with, such as slurm, pbs, lsf or sge.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Number of jobs to ask the batch system for, with --jobqueue.  [default: 1]",
)
@image_options
def encode(
    image: Path,
    output: Path | None,
    tile: int | Literal["whole"] | None,
    halo: int | None,
    scheduler: str | None,
    jobqueue: str | None,
    workers: int | None,
    model: str | None,
    device: str,
    **reading: Any,
) -> None:
    """Encode IMAGE ahead of time; clicks on it then need no GPU.

    If it is interrupted, what is done is kept, and the same command continues from there. What is ready can be used meanwhile.

    Several GPUs share the work, with one process each; so do the devices that --device lists, separated by commas.

    With --scheduler or --jobqueue, the planes go to a Dask cluster, whose workers must see IMAGE and the output.
    """
    import time

    import napari_interformer as ni
    from napari_interformer.image import Planes
    from napari_interformer.model import resolve_devices

    if scheduler and jobqueue:
        raise click.UsageError("--scheduler and --jobqueue are alternatives: give only one of them.")
    if workers and not jobqueue:
        raise click.UsageError(
            "--workers needs a batch system: name it with --jobqueue, or leave --workers out."
        )
    named = image if image.name else image.resolve()  # "." has no name
    output = output or named.with_name(f"{named.name}.features.zarr")
    began = time.monotonic()
    with ExitStack() as stack:
        if scheduler or jobqueue:
            from napari_interformer.cluster import cluster, encode_on

            client = stack.enter_context(
                cluster(scheduler=scheduler, jobqueue=jobqueue, workers=workers or 1)
            )
            make = partial(encode_on, client, image, output, model=model, device=device, **reading)
        elif len(devices := resolve_devices(device)) > 1:
            from napari_interformer.cluster import encode_with

            make = partial(encode_with, devices, image, output, model=model, **reading)
        else:
            planes = Planes.of(image, **reading)
            make = partial(ni.encode, planes, ni.load_model(model), store=output, device=device)
        show = stack.enter_context(bar("encoding", "tile"))
        made = 0  # tiles, of which each is told

        def progress(now: Any) -> None:
            nonlocal made
            made += 1
            show(now.done, now.total)

        features = make(tile=tile, halo=halo, progress=progress)
    height, width = features.size
    megapixels = math.prod(features.shape) / 1e6
    seconds = time.monotonic() - began
    click.echo(
        f"{count(math.prod(features.leading), 'plane')} of {height} x {width} pixels, {megapixels:.1f} megapixels, "
        + (f"encoded in {seconds:.1f} s: {output}" if made else f"were encoded before: {output}")
    )


@app.command()
@click.argument("image", type=FILE)
@click.option(
    "--click",
    "clicks",
    type=click_of,
    metavar=CLICK,
    multiple=True,
    help="A click on the object, or off it with ,- at the end; or a line through such pixels, with / between its points.  "
    "[can be repeated]",
)
@click.option(
    "--box",
    "boxes",
    type=box_of,
    metavar=BOX,
    multiple=True,
    help="A box drawn tightly around the object: two opposite corners, which are part of it; clicks correct the result.  "
    "[can be repeated on other planes]",
)
@click.option(
    "--object",
    "objects",
    type=object_of,
    metavar='"CLICK ..."',
    multiple=True,
    help='All clicks of one object: "120,88 140,95,-"; a line has / between its points: "120,88/131,92/140,90"; a box has '
    f'{BOX_MARK} before it: "{BOX_MARK}100,60,141,97 140,95,-".  '
    "[can be repeated]",
)
@click.option("--prompts", type=FILE, help="Clicks saved from the window or by Session.save_prompts (JSON).")
@click.option(
    "-o",
    "--output",
    type=FILE,
    required=True,
    help=f"The label image to write: .tif, .tiff or .zarr. A file that {NAME} wrote before is replaced.",
)
@click.option("--overlay", type=FILE, help="A picture of the result to look at (PNG).")
@click.option(
    "--propagate", is_flag=True, help="Carry each object through the neighbouring planes of the stack."
)
@click.option(
    "--similar",
    is_flag=True,
    help="Then find objects that look like these, on the planes that were clicked on.",
)
@click.option(
    "--features",
    metavar="PATH|URL",
    help="Features that `encode` wrote; what is missing for the clicks is added, and a new store is made if there is none. "
    "Behind a URL, they are only read.",
)
@click.option(
    "--object-size",
    type=length_of,
    metavar="PIXELS",
    help="How large the objects are across, in pixels.  [default: from the first answer and the objects before]",
)
@image_options
def segment(
    image: Path,
    clicks: tuple[Mark, ...],
    boxes: tuple[BoxPrompt, ...],
    objects: tuple[list[Given], ...],
    prompts: Path | None,
    output: Path,
    overlay: Path | None,
    propagate: bool,
    similar: bool,
    features: str | None,
    object_size: float | None,
    model: str | None,
    device: str,
    **reading: Any,
) -> None:
    """Segment what is clicked on or boxed in IMAGE, and write a label image.

    \b
    napari-interformer segment cells.tif --click 120,88 --click 140,95,- -o labels.tif
    napari-interformer segment cells.tif --box 100,60,141,97 -o labels.tif
    napari-interformer segment stack.tif --object "3,120,88 3,140,95,-" --object 5,40,200 -o labels.tif
    napari-interformer segment cells.tif --object 120,88 --object 30,210 --similar -o labels.tif
    """  # noqa: D301 - click's mark for lines that are not to be wrapped
    first: list[Given] = [*boxes, *clicks]
    everything = [*([first] if first else []), *objects]
    if not everything and prompts is None:
        raise click.UsageError("segment needs clicks or boxes: give --click, --box, --object or --prompts.")
    import napari_interformer as ni
    from napari_interformer import segmenting as steps
    from napari_interformer.image import Planes
    from napari_interformer.label_files import LABEL_FILES, check_labels_file, write_labels
    from napari_interformer.model import resolve_device
    from napari_interformer.store import located

    read = {"the image": image}
    if features is not None and isinstance(store := located(features), Path):
        read["the store of features"] = store
    check_output(output, LABEL_FILES, read)
    if overlay is not None:
        check_output(overlay, (".png",), read)

    planes = Planes.of(image, **reading)
    check_labels_file(output, planes.shape)
    for number, one in enumerate(everything, 1):
        steps.check_object(number, one, planes)
    if prompts is not None:
        steps.check_prompts(prompts, image, planes)
    if propagate:
        steps.check_stack(image, planes)
    if similar:
        steps.check_searchable(image, planes)
    network = ni.load_model(model)
    resolve_device(device)  # or a store would be made before it is refused
    planes, encoded = steps.open_features(features, planes, network, reading["contrast"])
    labels = click.get_current_context().with_resource(steps.labels_for(planes.shape, output))
    session = ni.Session(encoded, network, labels, object_size=object_size, highest=0)
    encode_part = partial(steps.encode_shown, planes, encoded, network, device)
    if propagate or prompts:
        encode_part()
    without: dict[int, str] = {}  # objects that got no pixel, and why
    if prompts is not None:
        steps.replay(session, prompts, propagate, without)
    for one in everything:
        for prompt in one:
            steps.give(session, prompt, encode_part)
        if propagate:
            steps.propagate_shown(session)
        steps.commit(session, without)
    found, wrong = steps.similar_ones(session, propagate, encode_part) if similar else ([], None)
    write_labels(
        output,
        session.labels,
        axes=planes.axes,
        scale=planes.scale,
        unit=planes.unit,
        translation=planes.translation,
    )
    if overlay is not None:
        from napari_interformer.picture import write_picture

        write_picture(
            overlay, planes, session, everything[0][0].plane if everything else steps.busiest(session)
        )
    # Only now: who reads what is printed may stop listening after a line.
    for told in found:
        click.echo(told)
    steps.report(session, without)
    click.echo(f"labels: {output}")
    if overlay is not None:
        click.echo(f"picture: {overlay}")
    if wrong is not None:
        raise wrong


@app.command(
    cls=ConfigCommand,
    config="napari_interformer.train:TrainConfig",
    mode=("--adapt", "napari_interformer.adapting:AdaptConfig"),
)
@click.argument("folder", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="The model to write (.safetensors).")
@click.option(
    "--adapt",
    "only_adapt",
    is_flag=True,
    help="Adapt a model (--initial, or the one in the package) to the images, in minutes; its encoder stays as it is.",
)
@click.pass_context
def train(ctx: click.Context, /, folder: Path, output: Path, only_adapt: bool, **settings: Any) -> None:
    """Train a model from FOLDER of images and label images (TIFF or PNG, matched by name).

    FOLDER holds images/ and labels/ with the same file names; a label image has 0 for the background and a number for
    each object. If it is killed or interrupted, the same command continues from the state that was saved last (with
    --adapt it starts again). An existing model is not replaced.

    \b
    several GPUs: torchrun --nproc-per-node 4 -m napari_interformer.cli train FOLDER -o model.safetensors
    a few images: napari-interformer train FOLDER --adapt -o model.safetensors
    """  # noqa: D301 - click's mark for lines that are not to be wrapped
    check_folder(folder)
    check_output(output, (".safetensors",), made=True)
    by_hand = click.core.ParameterSource.COMMANDLINE
    given = {name: value for name, value in settings.items() if ctx.get_parameter_source(name) is by_hand}
    if only_adapt:
        if of_process()[1] > 1:
            raise click.UsageError("--adapt runs in one process: leave torchrun out.")
        adapt_model(folder, output, given)
        return
    from napari_interformer.train import TrainConfig
    from napari_interformer.train import train as run

    known = {field.name for field in dataclasses.fields(TrainConfig)}
    if foreign := sorted(given.keys() - known):
        raise click.UsageError(
            f"{', '.join(map(flag_of, foreign))} {'needs' if len(foreign) == 1 else 'need'} --adapt."
        )
    config = TrainConfig(**given)
    with training_bar("training") as told, between_steps() as interrupted:
        saved = run(folder, output, config, progress=told, cancelled=lambda: bool(interrupted()))
    if (asked := interrupted()) and not saved.exists():
        signal.raise_signal(asked)  # now it ends as any command does
        raise KeyboardInterrupt  # in the background, where a shell has Ctrl+C ignored
    if first_process():
        from napari_interformer.checkpoint import read_checkpoint

        tell_model(folder, saved, int(read_checkpoint(saved).notes["kept"]), config)


@contextmanager
def training_bar(title: str) -> Iterator[Callable[[Progress], None]]:
    """Show a bar for steps of training, with loss, overlap and the time left."""
    with bar(title, "step") as show:

        def told(now: Progress) -> None:
            overlap = f"IoU {now.first_iou:.3f} -> {now.last_iou:.3f}"
            show(now.step, now.steps, f"loss {now.loss:.4f}, {overlap}, {duration(now.seconds_left)} left")

        yield told


def adapt_model(folder: Path, output: Path, settings: dict[str, Any]) -> None:
    """Adapt a model to a folder; `settings` are those of `AdaptConfig`, and those that choose images and model."""
    import napari_interformer as ni
    from napari_interformer.adapting import AdaptConfig
    from napari_interformer.crops import synthetic_pictures, training_pictures
    from napari_interformer.train import TrainConfig, check_new

    check_new(output)
    names = ("initial", "dataset", "validation", "exclude", "synthetic")
    known = {field.name for field in dataclasses.fields(AdaptConfig)} | set(names)
    if unknown := sorted(settings.keys() - known):
        raise click.UsageError(
            f"--adapt takes {', '.join(sorted(flag_of(name) for name in known))}; got {', '.join(map(flag_of, unknown))}."
        )
    which = {name: settings.pop(name) for name in names if name in settings}
    config = AdaptConfig(**settings)
    images = TrainConfig(**which, seed=config.seed)
    if images.synthetic == 1:
        raise click.UsageError(
            "--adapt needs --synthetic below 1, because some of the images must be from the folder."
        )
    model = ni.load_model(images.initial or None)
    pictures, kept = training_pictures(folder, images)
    found = count(len(pictures), "image")
    # Each image gives as many objects as another, so a share of the images is one of the objects.
    if made := round(len(pictures) * images.synthetic / (1 - images.synthetic)):
        pictures += synthetic_pictures(dataclasses.replace(images, synthetic_images=made))
        found += f" and {made} synthetic"
    features = []
    with bar("encoding", "image") as show:
        for picture in pictures:
            features.append(ni.encode(picture.pixels, model))
            show(len(features), len(pictures))
    labels = [picture.labels for picture in pictures]
    with training_bar("adapting") as told:
        adapted = ni.adapt(model, features, labels, config=config, progress=told)
    notes = {"adapted": f"from {Path(images.initial).name or DEFAULT_MODEL} on {found}"}
    output.parent.mkdir(parents=True, exist_ok=True)
    ni.save_model(adapted, output, notes)
    click.echo(f"adapted on {found}")
    tell_model(folder, output, kept, images)


def tell_model(folder: Path, model: Path, kept: int, config: TrainConfig) -> None:
    """Print where a model is, and how to measure it on the images that were not trained on, if there are any.

    `config` says how the images were split.
    """
    from napari_interformer.benchmark import BenchmarkConfig

    click.echo(f"model: {model}")
    if not kept:
        return
    usual = BenchmarkConfig()
    words: list[Any] = [NAME, "benchmark", folder, "--model", model, "--split", "validation"]
    for name in ("dataset", "validation"):
        if getattr(config, name) != getattr(usual, name):
            words += [flag_of(name), getattr(config, name)]
    line = (subprocess.list2cmdline if os.name == "nt" else shlex.join)(list(map(str, words)))
    click.echo(f"kept for validation: {count(kept, 'image')}; to measure the model there: {line}")


@app.command(cls=ConfigCommand, config="napari_interformer.benchmark:BenchmarkConfig")
@click.argument("folder", type=FILE)
@click.option(
    "-o", "--output", type=FILE, default=Path("benchmark"), show_default=True, help="Folder for the report."
)
@model_option
@click.option("--device", default="cpu", show_default=True, help="Where to encode: cpu, cuda, mps or auto.")
def benchmark(folder: Path, output: Path, model: str | None, device: str, **settings: Any) -> None:
    """Count the clicks that a simulated user needs on FOLDER, with images and label images.

    Prints IoU after 1, 3, 5 and 10 clicks, clicks needed (NoC), failures (NoF), milliseconds per click and seconds per
    encoded megapixel; writes them to benchmark.json and benchmark.md, with a plot and a sheet of the worst cases.

    \b
    napari-interformer benchmark my-images --baselines
    your own model, on the images that train did not use (with the same --validation, if you gave any):
    napari-interformer benchmark my-images --model my-model.safetensors --split validation
    """  # noqa: D301 - click's mark for lines that are not to be wrapped
    import importlib.util

    check_folder(folder)
    check_output_folder(output)
    from napari_interformer.benchmark import REPORT, BenchmarkConfig, run

    if taken := [name for name in REPORT if (output / name).exists()]:
        raise FileExistsError(
            f"{output} already holds {taken[0]}, of an earlier report or of something else: give another folder with -o."
        )
    if importlib.util.find_spec("matplotlib") is None:  # said now, not after an hour of clicking
        raise ModuleNotFoundError(name="matplotlib")
    import napari_interformer as ni

    config = BenchmarkConfig(**settings)
    network = ni.load_model(model)
    with bar("clicking", "image") as show:
        told = run(folder, network, config, device=device, progress=show)
    try:
        written = told.save(output)
    finally:  # what was measured, perhaps for hours, is shown at least
        click.echo(told.table())
    for path in written:
        click.echo(f"written: {path}")


@app.command()
@click.argument("source", type=FILE)
@click.argument("output", type=FILE)
def convert(source: Path, output: Path) -> None:
    """Convert a checkpoint of the reference (SOURCE, .pth) to OUTPUT (.safetensors), and print what it holds."""
    from napari_interformer.checkpoint import build, read_checkpoint, save_model
    from napari_interformer.train import check_new

    if not source.is_file():
        raise FileNotFoundError(f"convert needs a checkpoint; there is no file {source}: check its name.")
    check_output(output, (".safetensors",), {"the checkpoint": source})
    check_new(output)
    found = read_checkpoint(source)
    model = build(found)  # strict: every tensor is there and of the right shape
    click.echo(str(found))
    save_model(model, output, found.notes)
    click.echo(f"model: {output} ({output.stat().st_size / 1e6:.1f} MB)")


@app.command()
@click.option("--headless", is_flag=True, help="Do the same without a window, even where there is a display.")
@click.option(
    "-o",
    "--output",
    type=FILE,
    default=Path("interformer-demo"),
    show_default=True,
    help="Folder for the headless results.",
)
def demo(headless: bool, output: Path) -> None:
    """Open napari with a sample ready to click on; without a display, do the same headless."""
    from napari_interformer.demo import LABELS, PICTURE, open_window, run_headless, why_no_window

    reason = "--headless was given" if headless else why_no_window()
    if reason is None:
        open_window()
        return
    check_output_folder(output)
    if output.is_dir():
        for name in (LABELS, PICTURE):
            check_output(output / name, (Path(name).suffix,))
    click.echo(f"No window ({reason}): running without one.")
    run_headless(output)


# ------------------------------------------------------------------------------------------ files


def check_folder(folder: Path) -> None:
    """Refuse a data set that does not exist, before anything heavy is loaded."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"A data set is a folder with images/ and labels/; there is no folder {folder}: check its name."
        )


def check_output(
    path: Path, endings: Sequence[str], read: Mapping[str, Path] | None = None, *, made: bool = False
) -> None:
    """Refuse, before hours of work, a wrong ending, a place that cannot be written to, and the name of what is read.

    `read` maps what to call each file that is read to its path. `made` says that a missing folder will be made.
    """
    from napari_interformer.files import same_file
    from napari_interformer.label_files import written_here

    if path.suffix.lower() not in endings:
        raise click.UsageError(f"The output must end in {' or '.join(endings)}; got {path.name}.")
    if path.is_dir() and path.suffix.lower() != ".zarr":
        raise IsADirectoryError(f"{path} is a folder: give the name of a file.")
    for name, source in (read or {}).items():
        if same_file(path, source):
            raise FileExistsError(f"{path} is {name} itself: give the result another name.")
        if path.resolve() in source.resolve().parents:
            raise FileExistsError(f"{path} holds {name}, which would be lost: give the result another name.")
    # Somebody's image, as likely as not; of models, none is replaced (see `check_new`).
    if path.suffix.lower() != ".safetensors" and path.exists() and not written_here(path):
        raise FileExistsError(
            f"{path} already exists, and {NAME} did not write it, or not all of it: give the result another name, or "
            "remove it."
        )
    if not path.absolute().parent.is_dir():
        if made:
            check_output_folder(path.absolute().parent)
            return
        raise FileNotFoundError(f"There is no folder {path.parent} to write {path.name} to: make it first.")
    check_writable(path, path.resolve().parent)


def check_output_folder(path: Path) -> None:
    """Refuse, before hours of work, a folder that cannot be made or written to; make nothing."""
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is a file: give the name of a folder.")
    check_writable(path, there)


def check_writable(path: Path, folder: Path) -> None:
    """Refuse `path` if nothing can be written to `folder`."""
    import tempfile

    from napari_interformer.files import refuse_protected, unwritable

    try:
        refuse_protected(path)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise unwritable(path, error) from error


# ------------------------------------------------------------------------------------------ the way out


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; every error becomes one sentence and an exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    ended: Callable[[], int] = int
    try:
        with as_interrupt() as ended:
            app.main(args=arguments, prog_name=NAME, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        leave(arguments, ended() or signal.SIGINT)
    except Exception as error:
        if number := ended():  # torch can make another error of an interrupt
            leave(arguments, number)
        if "--debug" in arguments:
            raise
        click.echo(f"{NAME}: {sentence(error)}", err=True)
        sys.exit(1)


def leave(arguments: Sequence[str], number: int) -> NoReturn:
    """End what a signal interrupted."""
    with suppress(OSError):  # of a terminal that is closed
        click.echo(f"{NAME}: interrupted; {what_is_kept(arguments)}.", err=True)
    sys.exit(128 + number)


def what_is_kept(arguments: Sequence[str]) -> str:
    """Say what an interrupted command leaves behind."""
    command = next((word for word in arguments if not word.startswith("-")), "")
    stores = command == "segment" and any(re.match("--features(=|$)", word) for word in arguments)
    if command == "train" and "--adapt" not in arguments:
        return "what was finished is kept as far as it was saved, and the same command continues from there"
    if command == "encode" or stores:
        return "what was finished is kept, and the same command continues from there"
    return "nothing was kept, so the same command starts again from the beginning"


def sentence(error: Exception) -> str:
    """Say what went wrong in one line."""
    from napari_interformer.files import of_system

    raised_by = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)][-1:]
    if isinstance(error, OSError) and raised_by == [click.echo.__code__]:
        return f"Standard output could not be written to ({error.strerror}): free some space there, or send it elsewhere."
    if said := of_system(error):
        return said
    if isinstance(error, ModuleNotFoundError):
        extra = "train" if error.name == "matplotlib" else "all"
        return f"{error.name} is not installed: {GET_EXTRA.format(extra)}."
    text = " ".join(str(error).split())
    ours = isinstance(error, (ValueError, TypeError, OSError, LookupError, ImportError))
    if ours and text and not isinstance(error, (KeyError, IndexError)):
        return text
    return f"{type(error).__name__}: {text}; put --debug before the command to see where."


if __name__ == "__main__":
    main()
