"""Model files: safetensors that carry their configuration, and the reference's own checkpoints.

Nothing here ever runs code from a file: safetensors hold tensors and text, and a foreign `.pth` is
read with `weights_only=True`, which refuses everything else.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import pickle
import re
import threading
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import platformdirs
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from napari_interformer import DEFAULT_MODEL, NAME
from napari_interformer.files import at_home, write_whole
from napari_interformer.geometry import DIVISOR
from napari_interformer.model import InterFormer, InterFormerConfig, resolve_device

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger(__name__)

BUNDLED = Path(__file__).parent / "weights"

# Where the reference's names differ from ours.
_RENAME = (
    (re.compile(r"^module\."), ""),
    (re.compile(r"\.ffn\.layers\.0\.0\."), ".mlp.0."),
    (re.compile(r"\.ffn\.layers\.1\."), ".mlp.2."),
    (re.compile(r"\.patch_embed\.projection\."), ".patch_embed."),
)
_DERIVED = "relative_position_index"
# What makes a number and an array of NumPy from a pickle.
_MAKERS: list[Any] = [np.float64().__reduce__()[0], np.empty(0).__reduce__()[0]]
# What a file's notes may hold besides: numbers of NumPy, by the names that pickles have had for what makes them.
_NUMBERS: list[Any] = [
    *(
        (maker, f"{module}.multiarray.{maker.__name__}")
        for maker in _MAKERS
        for module in ("numpy.core", "numpy._core")
    ),
    *(np.ndarray, np.dtype),
    *{type(np.dtype(letter)) for letter in "?bBhHiIlLqQefd"},
]


def renamed(name: str) -> str:
    """Return what a tensor of the reference's checkpoints is called here."""
    for pattern, replacement in _RENAME:
        name = pattern.sub(replacement, name)
    return name


@dataclass(frozen=True)
class Checkpoint:
    """What a model file holds: sizes, tensors and notes on where they come from."""

    config: InterFormerConfig
    tensors: dict[str, Tensor]
    notes: dict[str, str]

    def __str__(self) -> str:
        """Return what was found, one item per line."""
        size = self.config
        count = sum(t.numel() for name, t in self.tensors.items() if ".running_" not in name)
        lines = [
            f"ViT: {size.layers} layers, width {size.embed_dim}, {size.heads} heads, window {size.window}",
            f"I-MSA: depths {size.depths}, {size.coarse_depths} of them coarse, heads {size.imsa_heads}",
            f"features: {size.map_channels} channels; head: {size.head_width} channels",
            f"{len(self.tensors)} tensors, {count / 1e6:.2f} million parameters",
        ]
        return "\n".join([*lines, *(f"{name}: {value}" for name, value in self.notes.items())])


def user_models() -> Path:
    """Return the folder of a user's own models."""
    return Path(platformdirs.user_data_dir(NAME)) / "models"


def models() -> dict[str, Path]:
    """Return the models that `load_model` knows by name: bundled ones and the user's own."""
    found = {path.stem: path for path in sorted(BUNDLED.glob("*.safetensors"))}
    # macOS leaves ._NAME.safetensors beside NAME.safetensors on disks that are not its own.
    own = (path for path in user_models().glob("[!.]*.safetensors") if path.is_file())
    return found | {path.stem: path for path in sorted(own)}


def new_name(wanted: str) -> str:
    """Return a name for a user's new model: the one wanted, made fit for files, with a number if it is taken."""
    name = re.sub(r"[^\w .()+-]+", "-", wanted.removesuffix(".safetensors"))[:50].strip(" .-") or "model"
    taken = {other.casefold() for other in models()}  # to some systems, a and A are one file
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(free for free in names if free.casefold() not in taken)


def load_model(source: str | Path | None = None, device: str | torch.device = "cpu") -> InterFormer:
    """Load a model, ready to use.

    Parameters
    ----------
    source : str or Path, optional
        A name (see `models`), a `.safetensors` file of this package, or a `.pth` of the reference. None is the
        default model that comes with the package.
    device : str
        Where to put it: "cpu", "cuda", "mps" or "auto".

    Returns
    -------
    InterFormer
        In evaluation mode.

    Raises
    ------
    FileNotFoundError
        If there is no such file or name.
    TypeError
        If `source` is neither text nor a path.
    ValueError
        If the file is not a checkpoint, is cut short, holds code or lacks tensors, or the device is not on this machine.
    OSError
        If it cannot be read.
    """
    if source is not None and not isinstance(source, str | os.PathLike):
        raise TypeError(
            f"load_model takes a model's name or a path; got {type(source).__name__}: for the default model, leave it out."
        )
    target = resolve_device(device)
    names = models()
    source = DEFAULT_MODEL if source is None else source
    path = Path(names[str(source)]) if str(source) in names else at_home(source)
    if not path.is_file():
        raise FileNotFoundError(
            f"load_model takes a model's name ({', '.join(names) or 'none is installed'}) or a path to a .safetensors "
            f"or .pth file; got {str(source)!r}, which is neither: check it."
        )
    return build(read_checkpoint(path)).to(target)


def check_name(path: str | os.PathLike[str]) -> None:
    """Refuse to write a model under a name that does not end as one's does: it might take the place of somebody's image."""
    if Path(path).suffix.lower() != ".safetensors":
        raise ValueError(
            f"A model is written as .safetensors; got {Path(path).name}: give a name that ends so."
        )


def build(checkpoint: Checkpoint) -> InterFormer:
    """Make the model of a checkpoint, in evaluation mode.

    Raises
    ------
    ValueError
        If tensors are missing, left over or of another shape or type than the configuration requires.
    """
    with torch.device("meta"):
        model = InterFormer(checkpoint.config)
    expected = {name: (*t.shape, t.is_floating_point()) for name, t in model.state_dict().items()}
    got = {name: (*t.shape, t.is_floating_point()) for name, t in checkpoint.tensors.items()}
    if expected != got:
        wrong = {
            "missing": sorted(expected.keys() - got.keys()),
            "left over": sorted(got.keys() - expected.keys()),
            "of another shape or type": sorted(
                n for n in expected.keys() & got.keys() if expected[n] != got[n]
            ),
        }
        told = "; ".join(f"{len(names)} {what} ({names[0]}, ...)" for what, names in wrong.items() if names)
        raise ValueError(
            f"An InterFormer of these sizes has {len(expected)} tensors; got {told}: copy or download the file again."
        )
    # Weights may lie in half precision in the file; counters stay whole numbers.
    full = {name: t.float() if t.is_floating_point() else t for name, t in checkpoint.tensors.items()}
    model.load_state_dict(full, assign=True)
    return model.eval()


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a model file of either kind without building the model.

    Raises
    ------
    ValueError
        If it is not a checkpoint, is cut short, or holds more than tensors and plain values.
    OSError
        If it cannot be read.
    """
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(16)
    # safetensors begins with the length of its JSON header, then the header.
    if head[8:9] == b"{":
        return _read_safetensors(path)
    return _read_reference(path)


def save_model(
    model: InterFormer, path: str | Path, notes: Mapping[str, str] | None = None, *, half: bool = False
) -> Path:
    """Write a model as safetensors, whole or not at all.

    Parameters
    ----------
    model : InterFormer
        On any device.
    path : str or Path
        The file; replaced if it exists.
    notes : dict of str, optional
        Where the weights come from; shown when the file is read.
    half : bool
        Store weights in half precision, for a file of half the size; tensors with numbers too large for it stay as they are.

    Returns
    -------
    Path
        The path.

    Raises
    ------
    TypeError
        If it is not a model, or `path` not a path.
    ValueError
        If the path does not end in .safetensors.
    OSError
        If it cannot be written; the file that was there before is untouched.
    """
    if not isinstance(model, InterFormer):
        raise TypeError(
            f"save_model takes a model and a path, in this order; got {type(model).__name__} for the model."
        )
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            f"save_model takes the path of a .safetensors file; got {path!r}: say where to keep the model."
        )
    check_name(path)
    tensors = {
        name: (_halved(t) if half and t.is_floating_point() else t).detach().cpu().contiguous()
        for name, t in model.state_dict().items()
    }
    metadata = {"config": json.dumps(asdict(model.config)), "notes": json.dumps(dict(notes or {}))}
    # Not `save_file`, whose files nobody else on a file share can read.
    return write_whole(Path(path), safetensors.torch.save(tensors, metadata))


def _halved(tensor: Tensor) -> Tensor:
    """Return a tensor in half precision, or as it is if that made infinity of a number."""
    halved = tensor.half()
    return halved if halved.isfinite().all() else tensor


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path.name} is not a complete safetensors file ({error}): copy or download it again."
        ) from None
    if "config" not in metadata:
        raise ValueError(
            f"{path.name} is a safetensors file without an InterFormer configuration: give one that this package "
            "wrote (napari-interformer convert or train)."
        )
    known = {field.name for field in fields(InterFormerConfig)}
    try:
        told, notes = json.loads(metadata["config"]), json.loads(metadata.get("notes", "{}"))
    except (ValueError, RecursionError):
        told, notes = None, None
    if not isinstance(told, dict) or not isinstance(notes, dict):
        raise ValueError(
            f"{path.name} has a configuration or notes that cannot be read: copy or download it again."
        )
    if unknown := sorted(told.keys() - known):
        raise ValueError(
            f"{path.name} was written by a newer version of the package (it sets {', '.join(unknown)}): update the package."
        )
    options: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in told.items()
    }
    config = InterFormerConfig(**options)
    _check(path, config, len(tensors))
    return Checkpoint(config, tensors, {name: str(value) for name, value in notes.items()})


def _check_records(path: Path) -> None:
    """Refuse compressed records, which PyTorch does not write: a small file could unpack to more than memory holds."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
                raise ValueError("compressed")


_alone = threading.Lock()  # what torch may read, and which warnings are shown, is one for all threads


def _read_reference(path: Path) -> Checkpoint:
    try:
        with _alone, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of odd pickles before it refuses them
            _check_records(path)
            with torch.serialization.safe_globals(_NUMBERS):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        unsafe = "GLOBAL" in str(error) or "Unsupported global" in str(error)
        reason = (
            "holds more than tensors (it may run code)"
            if unsafe
            else "is not a PyTorch checkpoint, or is damaged"
        )
        remedy = (
            "ask for a file with weights only" if unsafe else "give a .safetensors or .pth file of a model"
        )
        raise ValueError(f"{path.name} {reason}, so it was not loaded: {remedy}.") from None
    except Exception:  # whatever a parser meets in bytes that are something else
        raise ValueError(
            f"{path.name} is not a PyTorch checkpoint, or is cut short: copy or download it again."
        ) from None
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(n, str) and isinstance(t, Tensor) for n, t in state.items())
    ):
        raise ValueError(
            f"{path.name} holds no state_dict of tensors: give a checkpoint of the InterFormer reference."
        )
    tensors = {}
    for name, tensor in state.items():
        if not name.endswith(_DERIVED):
            tensors[renamed(name)] = tensor
    try:
        config = infer_config(tensors)
    except KeyError as error:
        raise ValueError(
            f"{path.name} is not an InterFormer checkpoint, or is incomplete: {error} is missing."
        ) from None
    except (ValueError, LookupError, ArithmeticError):
        raise ValueError(
            f"{path.name} is not an InterFormer checkpoint: the shapes of its tensors do not fit together."
        ) from None
    _check(path, config, len(tensors))
    meta = content.get("meta")
    notes = {
        "source": path.name,
        "prefix": "module." if any(n.startswith("module.") for n in state) else "none",
    }
    if isinstance(meta, Mapping):
        notes |= {f"meta.{key}": str(meta[key]) for key in ("mmseg_version", "iter", "epoch") if key in meta}
    return Checkpoint(config, tensors, notes)


_REALS = {"drop_path", "diameters", "zoom_expansion"}
_MAY_BE_ZERO = {"drop_path", "inner_radius", "outer_radius"}
# Of tuples that are not one of four.
_LENGTHS = {"detail": (0, 3), "stored_channels": (0, 4), "diameters": (0, 2)}
_MOST = 2**16  # more of anything is damage


def _check(path: Path, config: InterFormerConfig, tensors: int) -> None:
    """Refuse a configuration from which no model can be made, before one is made."""

    def refuse(name: str, takes: str) -> None:
        raise ValueError(
            f"{path.name} has a configuration that no InterFormer can have: {name} takes {takes}; got "
            f"{getattr(config, name)!r}: copy or download it again."
        )

    for name, usual in asdict(InterFormerConfig()).items():
        if name == "head_norm":
            continue
        value, kinds = getattr(config, name), (int, float) if name in _REALS else (int,)
        least = 0 if name in _MAY_BE_ZERO else math.nextafter(0, 1)
        takes = f"{'numbers' if name in _REALS else 'whole numbers'} {'from' if least == 0 else 'above'} 0 to {_MOST}"
        if isinstance(usual, tuple):
            lengths = _LENGTHS.get(name, (4,))
            if not isinstance(value, tuple) or len(value) not in lengths:
                refuse(name, f"{' or '.join(map(str, lengths))} {takes}")
        for number in value if isinstance(usual, tuple) else (value,):
            if type(number) not in kinds or not least <= number <= _MOST:
                refuse(name, takes)
    if config.head_norm not in ("batch", "group"):
        refuse("head_norm", "batch or group")
    if config.patch_size not in (8, 16):  # I-MSA reads the reference label at half the finest stride
        refuse("patch_size", "8 or 16")
    for name in ("window", "click_window"):
        if getattr(config, name) % DIVISOR:
            refuse(name, f"multiples of {DIVISOR}")
    if config.embed_dim % config.heads:
        refuse("heads", f"a divisor of embed_dim, {config.embed_dim}")
    if any(c % h for c, h in zip(config.channels, config.imsa_heads, strict=True)):
        refuse("imsa_heads", f"divisors of channels, {config.channels}")
    if any(c > d for c, d in zip(config.coarse_depths, config.depths, strict=True)):
        refuse("coarse_depths", f"at most depths, {config.depths}")
    if config.layers + sum(config.depths) > tensors:
        refuse("layers", f"together with depths, fewer blocks than there are tensors, {tensors}")
    if config.zoom_expansion < 1:
        refuse("zoom_expansion", "1 or more")
    if config.diameters and config.diameters[0] > config.diameters[1]:
        refuse("diameters", "the smaller one first")


def infer_config(tensors: Mapping[str, Any]) -> InterFormerConfig:
    """Infer a reference model's sizes from the shapes of its tensors.

    The click radius and the zoom-in numbers cannot be seen in the tensors: the paper's are assumed.

    Raises
    ------
    KeyError
        If a tensor from which a size follows is missing.
    """

    def count(prefix: str) -> int:
        return len({name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)})

    embed_dim, _, patch_size, _ = tensors["backbone.patch_embed.weight"].shape
    grid = round((tensors["backbone.pos_embed"].shape[1] - 1) ** 0.5)
    window = grid * patch_size
    coarse = [count(f"neck.stages.{i}.blocks.") for i in range(4)]
    refine = [count(f"neck.refine_stages.{i}.blocks.") for i in range(4)]
    first = [tensors[f"neck.stages.{i}.blocks.0.mlp.0.weight"].shape for i in range(4)]
    return InterFormerConfig(
        window=window,
        click_window=window,
        patch_size=patch_size,
        embed_dim=embed_dim,
        layers=count("backbone.layers."),
        heads=tensors["backbone.layers.0.attn.relative_position_bias_table"].shape[1],
        mlp_ratio=tensors["backbone.layers.0.mlp.0.weight"].shape[0] // embed_dim,
        channels=_four(dim for _, dim, *_ in first),
        depths=_four(c + r for c, r in zip(coarse, refine, strict=True)),
        coarse_depths=_four(coarse),
        imsa_mlp_ratios=_four(wide // dim for wide, dim, *_ in first),
        head_width=tensors["decode_head.conv_seg.weight"].shape[1],
        zoom_min_size=window // 2,
    )


def _four(values: Iterable[int]) -> tuple[int, int, int, int]:
    first, second, third, fourth = values
    return first, second, third, fourth
