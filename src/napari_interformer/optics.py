"""What a microscope and its camera do to a scene: blur, haze, halos, stains, uneven light, noise, bit depth.

Arrays of about 0..1 enter, arrays as cameras store them leave. Randomness arrives as an `rng`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Image = NDArray[np.generic]
    Signal = NDArray[np.float32]


def clouds(
    rng: np.random.Generator,
    size: Sequence[int],
    scale: float | Sequence[float] | NDArray[np.floating],
    *,
    smooth: bool = True,
) -> Signal:
    """Return random values with zero mean and unit deviation, varying over `scale` pixels (per axis).

    They are interpolated linearly; unless `smooth`, one sees it.
    """
    scales = [float(s) for s in np.broadcast_to(scale, len(size))]
    coarse = [max(3, math.ceil(n / max(s, 1)) + 3) for n, s in zip(size, scales, strict=True)]
    field = rng.standard_normal(coarse).astype(np.float32).astype(float)
    if smooth:  # round off the facets while the field is still small
        finer = [int(np.clip(s / 2, 1, 4)) for s in scales]
        for axis, factor in enumerate(finer):
            field = enlarge(field, axis, factor * field.shape[axis])
        field = gaussian_filter(field, [0.4 * factor if factor > 1 else 0 for factor in finer])
    for axis, (n, s) in enumerate(zip(size, scales, strict=True)):
        whole = round(n + 2 * s)
        start = int(rng.integers(0, max(1, whole - n)))
        field = enlarge(field, axis, whole, slice(start, start + n))
    field = field.astype(np.float32)
    return np.asarray((field - field.mean()) / (field.std() + 1e-6), np.float32)


def enlarge(
    field: NDArray[np.floating], axis: int, count: int, part: slice = slice(None)
) -> NDArray[np.floating]:
    """Interpolate linearly along an axis to `count` points between the first and the last; return a part of them."""
    where = np.linspace(0, field.shape[axis] - 1, count, dtype=field.dtype)[part]
    low = np.minimum(where.astype(int), field.shape[axis] - 2)
    share = (where - low).reshape([-1 if a == axis else 1 for a in range(field.ndim)])
    return np.asarray(field.take(low, axis) * (1 - share) + field.take(low + 1, axis) * share)


def texture(rng: np.random.Generator, size: Sequence[int], scale: float, strength: float) -> Signal:
    """Return a factor around 1, never below 0.1: grain of two sizes, the coarser `scale` pixels wide."""
    grain = clouds(rng, size, scale) + 0.5 * clouds(rng, size, max(1.0, scale / 3))
    return np.clip(1 + strength * grain, 0.1, None)


def unevenly_focused(signal: Signal, in_focus: NDArray[np.bool_], sharp: float, soft: float) -> Signal:
    """Blur what is in focus by `sharp` pixels and the rest by `soft`."""
    return np.asarray(
        gaussian_filter(signal * in_focus, sharp) + gaussian_filter(signal * ~in_focus, soft), np.float32
    )


def hazy(rng: np.random.Generator, signal: Signal, reach: float) -> Signal:
    """Add the light of other planes, spread over `reach` pixels, and a constant ground."""
    return np.asarray(
        signal + rng.uniform(0, 0.6) * gaussian_filter(signal, reach) + rng.uniform(0.02, 0.2), np.float32
    )


def phase_contrast(signal: Signal, reach: float, gain: float) -> Signal:
    """Turn optical thickness into positive phase contrast: dark inside, fading in large objects, a bright halo."""
    return np.asarray(0.5 - gain * (signal - 0.85 * gaussian_filter(signal, reach)), np.float32)


def relief(rng: np.random.Generator, signal: Signal, gain: float) -> Signal:
    """Turn optical thickness into interference contrast: lit from one side, as a landscape."""
    angle = rng.uniform(0, 2 * math.pi)
    rows, columns = np.gradient(signal)
    return np.asarray(0.5 + gain * (math.cos(angle) * rows + math.sin(angle) * columns), np.float32)


def stained(amounts: Sequence[Signal], colours: Sequence[NDArray[np.floating]]) -> Signal:
    """Return the light (Y, X, 3) left by stains: each absorbs by its amount (Y, X) and colour (optical density)."""
    density = sum(
        amount[..., None] * colour.astype(np.float32) for amount, colour in zip(amounts, colours, strict=True)
    )
    return np.asarray(np.exp(-np.asarray(density)), np.float32)


def exposed(signal: NDArray[np.floating]) -> Signal:
    """Scale so that the brightest half percent saturates, as one sets the exposure of fluorescence."""
    return np.asarray(signal / (np.percentile(signal, 99.5) + 1e-6), np.float32)


def visible(signal: NDArray[np.floating]) -> Signal:
    """Raise a faint contrast around 0.5, as one does at the microscope until one sees something."""
    low, high = np.percentile(signal, (1, 99))
    return np.asarray(0.5 + (signal - 0.5) * max(1.0, 0.3 / (high - low + 1e-6)), np.float32)


def uneven_light(rng: np.random.Generator, size: Sequence[int]) -> Signal:
    """Return a factor (Y, X) around 1: a lamp that shines a little beside the field's middle, more or less wide."""
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) - rng.uniform(-0.7, 0.7) for n in size)
    fall = math.exp(rng.uniform(math.log(0.01), math.log(0.3)))
    light = np.exp(-fall * (y[:, None] ** 2 + x**2))
    return np.asarray(light / light.mean(), np.float32)


def camera(
    rng: np.random.Generator,
    signal: NDArray[np.floating],
    *,
    photons: tuple[float, float] = (20, 2000),
    inverted: float = 0.05,
) -> Image:
    """Record a signal of about 0..1: uneven light, shot and read noise, 8, 12 or 16 bits.

    Parameters
    ----------
    rng : numpy.random.Generator
    signal : (Y, X), (Z, Y, X) or (Y, X, 3) float
        RGB is told by its last axis, and recorded in 8 bits.
    photons : (float, float)
        Range of the photons per pixel at signal 1, log-uniform: few make much noise.
    inverted : float
        How often a grey image is stored as its negative.

    Returns
    -------
    uint8 or uint16 array of the same shape
    """
    coloured = signal.ndim == 3 and signal.shape[-1] == 3
    plane = signal.shape[:2] if coloured else signal.shape[-2:]
    light = uneven_light(rng, plane)
    lit = np.clip(signal * (light[..., None] if coloured else light), 0, 2)
    full = math.exp(rng.uniform(*np.log(photons)))
    # Shot noise by its normal approximation: twenty times faster than Poisson, and no eye tells them apart.
    deviation = np.sqrt(lit / full + rng.uniform(0.002, 0.02) ** 2)
    noise = rng.standard_normal(signal.shape, np.float32)
    if rng.random() < 0.3:  # resampled, compressed or demosaicked: neighbours share their noise
        spread = rng.uniform(0.4, 0.8)
        noise = gaussian_filter(noise, (spread, spread, 0) if coloured else spread)
    counts = lit + deviation * noise
    if coloured:
        return np.asarray(np.clip(counts * 230 + 5, 0, 255), np.uint8)
    if rng.random() < inverted:
        counts = 1.05 - counts
    bits = int(rng.choice([8, 12, 16], p=[0.6, 0.15, 0.25]))
    top = 2**bits - 1
    gain = 0.9 if bits == 8 else rng.uniform(0.05, 0.9)  # deeper cameras are seldom filled
    return np.asarray(
        np.clip((counts * gain + 0.02 * gain) * top, 0, top), np.uint8 if bits == 8 else np.uint16
    )
