"""InterFormer in one piece: pixels to features once, features and clicks to a mask in real time.

Here the parts are put together, the presets are defined, and the network meets NumPy (`encode_pixels`, `prepare_maps`,
`decode_logits`). The modules that train it (`adapting`, `batch_clicks`, `crops`, `train`) convert between the two
themselves, and so does `scales`, which lets torch resize pixels and logits.
"""

from __future__ import annotations

import hashlib
import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from napari_interformer.cores import few, watched
from napari_interformer.decoder import IMSA, AuxiliaryHead, Head, Prepared, resize
from napari_interformer.encoder import Encoder, strides_of
from napari_interformer.geometry import DIVISOR, Box

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_interformer.decoder import Region

# ImageNet's, in 0..255, RGB.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
ROUNDING = 4 * torch.finfo(torch.float32).eps  # of the largest logit


@dataclass(frozen=True)
class InterFormerConfig:
    """Sizes of an InterFormer and the numbers its clicks were trained with.

    Attributes
    ----------
    window : int
        Training size in pixels, which is also the side of a tile that is encoded.
    click_window : int
        Smallest side in pixels of the window that is decoded around an object; it grows with the object.
    patch_size, embed_dim, layers, heads, mlp_ratio : int
        The ViT.
    detail : tuple of int
        Widths of the convolutional stem: first layer, finest stride, second; empty for none, as in the paper.
    drop_path : float
        Stochastic depth while training.
    channels : tuple of int
        Channels of I-MSA's four stages, finest first.
    stored_channels : tuple of int
        Channels of the four feature maps that are kept between encoding and clicks; empty for the same, as in the
        paper. Fewer make a smaller feature store.
    depths, coarse_depths : tuple of int
        I-MSA blocks per stage, and how many of them see the whole window; the rest refine a region.
    imsa_heads, imsa_mlp_ratios : tuple of int
        Per stage.
    head_width : int
        Channels of the UPerNet head.
    head_norm : str
        Norm of the head: "batch" as in the paper, or "group", which can be trained in small batches.
    logit_parts : int
        Logits per cell and axis of the finest map: 1 as in the paper, or more.
    diameters : (float, float) or ()
        Objects smaller or larger than these numbers of pixels are seen at another magnification, if the image is available;
        empty for never, as in the paper.
    inner_radius, outer_radius : int
        Radius in pixels around a click in which pixels are certain, and how much farther they are possible.
    zoom_expansion : float
        How much the box of what is known is enlarged to make the region of the refine blocks.
    zoom_min_size : int
        Smallest side of that region in pixels.
    """

    window: int = 512
    click_window: int = 512
    patch_size: int = 16
    embed_dim: int = 768
    layers: int = 12
    heads: int = 12
    mlp_ratio: int = 4
    detail: tuple[int, ...] = ()
    drop_path: float = 0.1
    channels: tuple[int, int, int, int] = (32, 64, 128, 256)
    stored_channels: tuple[int, ...] = ()
    depths: tuple[int, int, int, int] = (1, 1, 2, 1)
    coarse_depths: tuple[int, int, int, int] = (1, 1, 2, 1)
    imsa_heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    imsa_mlp_ratios: tuple[int, int, int, int] = (8, 8, 4, 4)
    head_width: int = 64
    head_norm: str = "batch"
    logit_parts: int = 1
    diameters: tuple[float, ...] = ()
    inner_radius: int = 5
    outer_radius: int = 0
    zoom_expansion: float = 1.4
    zoom_min_size: int = 256

    @property
    def strides(self) -> tuple[int, int, int, int]:
        """Strides of the four feature maps in pixels."""
        return strides_of(self.patch_size)

    @property
    def map_channels(self) -> tuple[int, int, int, int]:
        """Channels of the four feature maps."""
        first, second, third, fourth = self.stored_channels or self.channels
        return first, second, third, fourth


PRESETS = {
    # The paper's two models (its names: Tiny is the bigger one).
    "light": InterFormerConfig(),
    "tiny": InterFormerConfig(
        embed_dim=1024, layers=24, heads=16, depths=(2, 2, 6, 3), coarse_depths=(1, 1, 2, 1)
    ),
    # The bundled one: small enough for a wheel, with a stem for objects smaller than a patch.
    "small": InterFormerConfig(
        window=256,
        click_window=128,
        patch_size=8,
        embed_dim=128,
        layers=6,
        heads=4,
        detail=(16, 32, 64),
        drop_path=0.0,
        channels=(16, 32, 64, 128),
        stored_channels=(8, 16, 32, 64),
        imsa_mlp_ratios=(4, 4, 4, 4),
        head_width=32,
        head_norm="group",
        logit_parts=2,
        diameters=(24.0, 60.0),
        inner_radius=1,
        zoom_min_size=128,
    ),
}


def _forget_fingerprints(model: InterFormer, _: object) -> None:
    model._fingerprints.clear()


def _hash(module: nn.Module) -> str:
    # The tensors tell nearly all of the sizes; a setting of a later version must not part a store from its model.
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class InterFormer(nn.Module):
    """The network: `encode` an image once, `decode` every click.

    Parameters
    ----------
    config : InterFormerConfig
        Sizes. Weights are random; `checkpoint.load_model` gives trained ones.
    """

    def __init__(self, config: InterFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Encoder(
            grid=config.window // config.patch_size,
            patch_size=config.patch_size,
            dim=config.embed_dim,
            depth=config.layers,
            heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            channels=config.map_channels,
            detail=config.detail,
            drop_path=config.drop_path,
        )
        self.neck = IMSA(
            stored=config.map_channels,
            channels=config.channels,
            depths=config.depths,
            coarse_depths=config.coarse_depths,
            heads=config.imsa_heads,
            mlp_ratios=config.imsa_mlp_ratios,
            strides=config.strides,
            window=config.window,
        )
        self.decode_head = Head(config.channels, config.head_width, config.logit_parts, config.head_norm)
        self.auxiliary_head = AuxiliaryHead(config.channels[2], config.head_width, config.head_norm)
        self._fingerprints: dict[str, str] = {}
        self.register_load_state_dict_post_hook(_forget_fingerprints)  # type: ignore[no-untyped-call]

    def encode(self, x: Tensor, before_layer: Callable[[], None] | None = None) -> list[Tensor]:
        """Encode a batch.

        Parameters
        ----------
        x : (B, 3, H, W) float32
            RGB, normalised (see `normalise`) and padded to multiples of 32.
        before_layer : callable, optional
            Called before each layer of the ViT; what it raises ends the encoding there.

        Returns
        -------
        list of Tensor
            Four maps (B, C_i, H / s_i, W / s_i); strides 4, 8, 16, 32 for 16-pixel patches.

        Raises
        ------
        ValueError
            If `x` is of another shape.
        """
        if x.ndim != 4 or x.shape[1] != 3 or any(not side or side % DIVISOR for side in x.shape[2:]):
            raise ValueError(
                f"encode takes (B, 3, H, W) with H and W multiples of {DIVISOR}; got {tuple(x.shape)}: normalise pads pixels."
            )
        return self.backbone(x, before_layer)  # type: ignore[no-any-return]

    def prepare(self, maps: Sequence[Tensor] | Prepared) -> Prepared:
        """Compute the part of decoding that depends only on the image; `decode` takes maps or the result.

        Raises
        ------
        ValueError
            If the model is on a device that cannot decode; see `decoding_device`.
        """
        if isinstance(maps, Prepared):
            return maps
        if self.device.type == "mps":
            raise ValueError(
                "Clicks are answered on a CPU or CUDA, because PyTorch's adaptive pooling gives wrong results on MPS: load the "
                'model without a device, and give device="mps" to encode only.'
            )
        return self.neck.prepare(list(maps))

    def decode(
        self, maps: Sequence[Tensor] | Prepared, reference: Tensor, roi: Region | None = None
    ) -> Tensor:
        """Turn features and what is known into logits.

        Parameters
        ----------
        maps : four tensors or Prepared
            From `encode` or `prepare`.
        reference : (B, H, W) uint8
            States of the reference label.
        roi : (left, top, right, bottom), optional
            Multiples of 32: the refine blocks work only inside. Everywhere if None.

        Returns
        -------
        Tensor
            (B, 2, H, W): background and foreground.

        Raises
        ------
        ValueError
            If the reference label is not of the size of the maps, or the region is not as described, or as for `prepare`.
        """
        maps = self.prepare(maps)
        batch, _, rows, columns = maps.finest.shape
        size = (rows * self.strides[0], columns * self.strides[0])
        if tuple(reference.shape[1:]) != size or batch not in (1, len(reference)):
            raise ValueError(
                f"reference must be of the size of the maps, {(batch, *size)}; got {tuple(reference.shape)}: encode and decode "
                "the same window."
            )
        if roi is not None and (
            Box(*roi).empty or any(edge % DIVISOR for edge in roi) or not Box.of(size).holds(Box(*roi))
        ):
            raise ValueError(
                f"roi takes (left, top, right, bottom), multiples of {DIVISOR} inside the window {size}; got {tuple(roi)}: "
                "leave it out to refine everywhere."
            )
        logits, _ = self.decode_levels(maps, reference, roi)
        return resize(logits.contiguous(), (reference.shape[1], reference.shape[2]))

    def decode_levels(
        self, maps: Sequence[Tensor] | Prepared, reference: Tensor, roi: Region | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the head's logits at their own stride, and the levels (the auxiliary head's input)."""
        levels = self.neck(self.prepare(maps), reference, roi)
        return self.decode_head(levels), levels

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of the four feature maps."""
        return self.config.map_channels

    @property
    def strides(self) -> tuple[int, int, int, int]:
        """Strides of the four feature maps in pixels."""
        return self.config.strides

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.backbone.cls_token.device

    @property
    def fingerprint(self) -> str:
        """Hash of the encoder's weights: equal for models whose features are interchangeable, however they are decoded."""
        if "encoder" not in self._fingerprints:
            self._fingerprints["encoder"] = _hash(self.backbone)
        return self._fingerprints["encoder"]

    @property
    def decoder_fingerprint(self) -> str:
        """Hash of the weights of I-MSA and the head, which adapting changes.

        Numbers that are no weights, such as the click's radius, go unnoticed: files of clicks know models by this hash.
        """
        if "decoder" not in self._fingerprints:
            self._fingerprints["decoder"] = _hash(nn.ModuleList([self.neck, self.decode_head]))
        return self._fingerprints["decoder"]

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation; weights that may change lose their fingerprints."""
        self._fingerprints.clear()
        return super().train(mode)

    @torch.inference_mode()
    def encode_pixels(
        self, pixels: NDArray[np.float32], before_layer: Callable[[], None] | None = None
    ) -> list[NDArray[np.float32]]:
        """Encode pixels as they come from `image.Planes`.

        Parameters
        ----------
        pixels : (B, Y, X, 3) float32
            RGB in 0..255; any size.
        before_layer : callable, optional
            As in `encode`.

        Returns
        -------
        list of (B, C_i, Yp / s_i, Xp / s_i) float32
            Yp, Xp are Y, X rounded up to multiples of 32.
        """
        with ExitStack() as stack:
            if self.device.type == "cpu":
                stack.enter_context(few(math.prod(pixels.shape[:3])))
                stack.enter_context(watched((id(self), pixels.shape)))
            x = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device).permute(0, 3, 1, 2)
            half = self.device.type == "cuda"
            with torch.autocast(self.device.type, torch.float16, enabled=half):
                maps = self.encode(normalise(x), before_layer)
            return [level.float().cpu().numpy() for level in maps]

    @torch.inference_mode()
    def prepare_maps(self, maps: Sequence[NDArray[np.float32]]) -> Prepared:
        """Prepare one window's maps, (C_i, h / s_i, w / s_i) each, for any number of clicks."""
        return self.prepare([torch.from_numpy(np.ascontiguousarray(m))[None].to(self.device) for m in maps])

    @torch.inference_mode()
    def decode_logits(
        self,
        maps: Sequence[NDArray[np.float32]] | Prepared,
        reference: NDArray[np.uint8],
        roi: Region | None = None,
    ) -> NDArray[np.float32]:
        """Decode one window.

        Parameters
        ----------
        maps : four arrays or Prepared
            (C_i, h / s_i, w / s_i) float32 each, or what `prepare_maps` made of them.
        reference : (h, w) uint8
            States; h and w multiples of 32.
        roi : Box, optional
            As in `decode`.

        Returns
        -------
        (h, w) float32
            Foreground minus background logit; the mask is where it is positive. Logits that differ only by rounding
            count as equal, so that a borderline pixel is background on any number of threads.
        """
        prepared = maps if isinstance(maps, Prepared) else self.prepare_maps(maps)
        states = torch.from_numpy(np.ascontiguousarray(reference))[None].to(self.device)
        logits = self.decode(prepared, states, roi)[0]
        difference = (logits[1] - logits[0]).float()
        equal = difference.abs() <= ROUNDING * logits.abs().amax().float()
        return difference.masked_fill_(equal, 0.0).cpu().numpy()


def normalise(x: Tensor) -> Tensor:
    """Subtract the mean, divide by the standard deviation, pad right and bottom with zeros to 32.

    `x` is (B, 3, H, W) RGB in 0..255.
    """
    mean = torch.tensor(MEAN, dtype=x.dtype, device=x.device).view(3, 1, 1)
    std = torch.tensor(STD, dtype=x.dtype, device=x.device).view(3, 1, 1)
    height, width = x.shape[2:]
    return F.pad((x - mean) / std, (0, -width % DIVISOR, 0, -height % DIVISOR))


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """Return the device of that name; "auto" is the fastest that there is.

    Raises
    ------
    ValueError
        If the name is unknown, or the device asked for is not on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    found = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    try:
        device = torch.device(name)
        count = found[device.type]
    except (RuntimeError, KeyError):
        raise ValueError(f"device takes auto, cpu, cuda, cuda:N or mps; got {name!r}.") from None
    if (device.index or 0) >= count:
        raise ValueError(
            f"{device.type.upper()} was asked for ({str(name)!r}), but PyTorch finds {count or 'no'} such "
            "device here: choose auto or cpu, or install a PyTorch build that supports it."
        )
    return device


def decoding_device(name: str | torch.device = "auto") -> torch.device:
    """Return where clicks are answered, and models trained, if images are encoded on the device of that name.

    That is the same device, except for Apple's GPUs, on which PyTorch's adaptive pooling silently gives wrong results (pytorch
    issue 190064, up to and including 2.13). The encoder does not use it.
    """
    device = resolve_device(name)
    return torch.device("cpu") if device.type == "mps" else device


def resolve_devices(names: str = "auto") -> list[torch.device]:
    """Return the devices of that name, which may be several: all GPUs for "auto" and "cuda", or a list with commas.

    Raises
    ------
    ValueError
        If a name is unknown, or a device asked for is not on this machine.
    """
    found = [resolve_device(name.strip()) for name in names.split(",")]
    if found == [torch.device("cuda")]:
        return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    return found
