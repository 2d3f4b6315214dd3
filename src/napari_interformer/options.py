"""What is typed: text becomes clicks, boxes and numbers, and a dataclass becomes the options of a command."""

from __future__ import annotations

import dataclasses
import math
import os
import pkgutil
import re
import textwrap
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_interformer.image import Contrast
    from napari_interformer.prompts import BoxPrompt, Given, Mark

CLICK = "[T,][Z,]Y,X[/Y,X...][,-]"
BOX = "[T,][Z,]Y,X,Y,X"
BOX_MARK = "box:"  # among the clicks of --object


def click_of(text: str) -> Mark:
    """Read ``Y,X``, ``Z,Y,X`` or ``T,Z,Y,X``, with ``,-`` at the end for "not part of the object".

    Where further ``Y,X`` follow, each after a ``/``, it is a line through them: a scribble.
    """
    from napari_interformer.prompts import Click, Scribble

    numbers, end = text.replace(" ", ""), text.strip()[-1:]
    if end in ("+", "-"):
        numbers = numbers[:-1].removesuffix(",")
    first, *others = (stop.split(",") for stop in numbers.split("/"))
    if len(first) < 2 or any(len(stop) != 2 for stop in others) or not all(map(_whole, sum(others, first))):
        raise click.BadParameter(
            f"a click is {CLICK} in whole pixels, with ,- if it is off the object; got {text!r}."
        )
    *plane, y, x = map(int, first)
    if not others:
        return Click.at((*plane, y, x), end != "-")
    return Scribble.along([(*plane, y, x), *((*plane, *map(int, stop)) for stop in others)], end != "-")


def box_of(text: str) -> BoxPrompt:
    """Read the leading indices, and the row and column of two opposite corners: ``Y,X,Y,X``, ``Z,Y,X,Y,X`` and so on."""
    from napari_interformer.prompts import BoxPrompt

    parts = [part.strip() for part in text.split(",")]
    if len(parts) < 4 or not all(map(_whole, parts)):
        raise click.BadParameter(
            f"a box is {BOX} in whole pixels: its plane once, and two opposite corners; got {text!r}."
        )
    *plane, y, x, opposite_y, opposite_x = (int(part) for part in parts)
    return BoxPrompt.between((*plane, y, x), (*plane, opposite_y, opposite_x))


def object_of(text: str) -> list[Given]:
    """Read the clicks, lines and boxes of one object, separated by blanks."""
    if not text.strip():
        raise click.BadParameter("an object needs at least one click or box; got none.")
    return [
        box_of(one.removeprefix(BOX_MARK)) if one.startswith(BOX_MARK) else click_of(one)
        for one in text.split()
    ]


def _whole(text: str) -> bool:
    return re.fullmatch(r"-?\d+", text) is not None


def typed(prompt: Given) -> str:
    """Write a click, a line or a box as it is typed."""
    from napari_interformer.prompts import Mark

    if isinstance(prompt, Mark):
        first, *others = prompt.path
        stops = [",".join(map(str, stop)) for stop in ((*prompt.plane, *first), *others)]
        return "/".join(stops) + ("" if prompt.positive else ",-")
    first, last = prompt.corners
    return ",".join(map(str, (*prompt.plane, *first, *last)))


def numbers_of(kind: Callable[[str], Any], wanted: int | None = None) -> Callable[[Any], tuple[Any, ...]]:
    """Return a function that reads numbers separated by commas."""

    def read(value: Any) -> tuple[Any, ...]:
        if isinstance(value, tuple):  # a default
            return value
        try:
            numbers = tuple(kind(part) for part in value.split(","))
        except ValueError:
            raise click.BadParameter(f"expected numbers separated by commas; got {value!r}.") from None
        if wanted is not None and len(numbers) != wanted:
            raise click.BadParameter(f"expected {wanted} numbers; got {len(numbers)} in {value!r}.")
        return numbers

    return read


def contrast_of(text: str) -> Contrast:
    """Read a rule's name, or the pixel values to show as black and white."""
    from napari_interformer.image import ContrastRule

    rules: dict[str, ContrastRule] = {rule: rule for rule in typing.get_args(ContrastRule)}
    if text in rules:
        return rules[text]
    try:
        low, high = numbers_of(float, 2)(text)
    except click.BadParameter:
        raise click.BadParameter(
            f"expected {', '.join(rules)} or two pixel values, LOW,HIGH; got {text!r}."
        ) from None
    if not low < high:
        raise click.BadParameter(
            f"LOW is what is black, and must be below HIGH, what is white; got {text!r}."
        )
    return low, high


def tile_of(text: str) -> int | Literal["whole"]:
    """Read a tile's side in pixels, or "whole"."""
    if text == "whole":
        return "whole"
    if not text.isdigit():
        raise click.BadParameter(f'expected a number of pixels or "whole"; got {text!r}.')
    return int(text)


def length_of(text: str) -> float:
    """Read a length in pixels."""
    try:
        length = float(text)
    except ValueError:
        length = 0
    if not 0 < length < math.inf:
        raise click.BadParameter(f"expected a number of pixels above 0; got {text!r}.")
    return length


def store_of(text: str) -> Path:
    """Read where a new store goes; a URL would become a folder of that name."""
    if not text:
        raise click.BadParameter("encode needs a name for the store; got none: give a path.")
    if "://" in text:
        raise click.BadParameter(
            f"encode writes to a disk; got {text!r}: give a path (in Python, encode also takes a writable URL)."
        )
    return Path(os.path.expanduser(text))


class ConfigCommand(click.Command):
    """A command whose options are the fields of a dataclass, which alone holds their names, types, defaults and help.

    Parameters
    ----------
    config : str
        Names the dataclass, "module:class"; loaded when the options are needed, because that may load torch.
    mode : (str, str), optional
        A flag and the name of another dataclass, whose defaults hold with that flag; the help shows those that differ.
        Fields that only it has are options for that flag only.
    """

    def __init__(self, *args: Any, config: str, mode: tuple[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config, self.mode = config, mode

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's own options, then one for each field."""
        *own, help_option = super().get_params(ctx)
        config = pkgutil.resolve_name(self.config)
        if self.mode is None:
            return [*own, *options_of(config), help_option]
        flag, other = self.mode[0], pkgutil.resolve_name(self.mode[1])
        options = options_of(config, flag, other)
        known = {option.name for option in options}
        more = [option for option in options_of(other) if option.name not in known]
        for option in more:
            option.help = f"With {flag}: {option.help}"
        return [*own, *options, *more, help_option]


def options_of(config: type, flag: str = "", other: type | None = None) -> list[click.Option]:
    """Return an option for each field of a dataclass; the help is its docstring's ``Attributes``.

    With `flag`, the defaults of the dataclass `other` hold instead, which the help says.
    """
    hints = typing.get_type_hints(config)
    written = "\n".join(one.__doc__ or "" for one in config.__mro__ if dataclasses.is_dataclass(one))
    told = dict(re.findall(r"^ {4}(\w[\w, ]*) : [^\n]*\n((?: {8}[^\n]+\n)+)", written, re.MULTILINE))
    text = {name.strip(): textwrap.dedent(help) for names, help in told.items() for name in names.split(",")}
    options = []
    for field in dataclasses.fields(config):
        name = flag_of(field.name)
        if hints[field.name] is bool:
            name += f"/--no-{name[2:]}"
        instead = getattr(other, field.name, field.default)
        default = _default(field.default, "" if instead == field.default else f"; {instead} with {flag}")
        options.append(
            click.Option(
                [name],
                **_kind(hints[field.name]),
                default=field.default,
                show_default=not default,
                help=" ".join(text.get(field.name, "").split()) + default,
            )
        )
    return options


def _kind(hint: Any) -> dict[str, Any]:
    kind, *rest = typing.get_args(hint) or (hint,)
    if typing.get_origin(hint) is not tuple:
        return {"type": kind}
    if Ellipsis in rest:
        return {"type": numbers_of(kind), "metavar": "N,N,..."}
    return {"type": numbers_of(kind, 1 + len(rest)), "metavar": ",".join("N" * (1 + len(rest)))}


def _default(value: Any, instead: str) -> str:
    """Show a tuple as it is typed, and a default that depends on a flag; click shows the rest itself."""
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    elif not instead:
        return ""
    return f"  [default: {value}{instead}]"


class _File(click.Path):
    """A path, with ~ as the home folder: shells leave it alone within quotation marks, and after "--output="."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return Path(os.path.expanduser(os.fsdecode(super().convert(value, param, ctx))))


FILE = _File()

model_option = click.option(
    "--model",
    "-m",
    help="A model's name, a .safetensors file, or a .pth of the reference.  [default: the one in the package]",
)


def image_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say with what to encode an image, and how to read it: the latter are arguments of `Planes.of`."""
    for option in (
        click.option(
            "--device",
            default="auto",
            show_default=True,
            help="Where to encode: auto, cuda, cuda:1, mps or cpu.",
        ),
        click.option(
            "--contrast",
            type=contrast_of,
            metavar="RULE|LOW,HIGH",
            default="auto",
            show_default=True,
            help="What the model sees as black and white: auto, volume or plane (percentiles of the whole volume or of each "
            "plane), or LOW,HIGH such as 200,4000.",
        ),
        click.option(
            "--channels",
            type=numbers_of(int),
            metavar="N[,N[,N]]",
            help="Up to three channels, counted from 0, to be red, green and blue.",
        ),
        click.option("--channel-axis", type=int, help="The axis of the image that holds channels."),
        click.option(
            "--axes",
            metavar="LETTERS",
            help="What each axis of the image is, such as ZYX, TCZYX or YXC.  [default: as its file says]",
        ),
        model_option,
    ):
        command = option(command)
    return command


def flag_of(name: str) -> str:
    """Return the option for a field."""
    return "--" + name.replace("_", "-")
