"""Kinds of microscopy: each family is one function `(rng, size) -> (image, labels)`.

Shapes first (`shapes.py`): they are the truth. Then light (`optics.py`), which blurs their picture and not them.
A new family is one function and one line of `FAMILIES`, or of `VOLUMES` for stacks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from napari_interformer.optics import (
    camera,
    clouds,
    exposed,
    hazy,
    phase_contrast,
    relief,
    stained,
    texture,
    unevenly_focused,
    visible,
)
from napari_interformer.shapes import (
    draw,
    mosaic,
    nest,
    outlines,
    scatter,
    shape_of,
    tube,
    walk,
    whole,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.generic]
    Labels = NDArray[np.int32]
    Signal = NDArray[np.float32]
    Size = tuple[int, int]

Family = Callable[[np.random.Generator, tuple[int, int]], "tuple[Image, Labels]"]
VolumeFamily = Callable[[np.random.Generator, tuple[int, int, int]], "tuple[Image, Labels]"]


# ----------------------------------------------------------------------------------------- ingredients


def extent(rng: np.random.Generator, size: tuple[int, ...], smallest: float = 8) -> float:
    """Draw how many pixels the objects of an image are across: log-uniform up to 500, or to what the image holds."""
    largest = max(smallest, min(500.0, 0.8 * min(size[-2:])))
    return math.exp(rng.uniform(math.log(smallest), math.log(largest)))


def fuzz(rng: np.random.Generator, across: float) -> float:
    """Draw the blur of objects that many pixels across: what is large is magnified, so its edges are softer."""
    return float(rng.uniform(0.4, 0.8 + 0.9 * math.log2(max(across, 8) / 8)))


def per_object(
    rng: np.random.Generator, labels: Labels, spread: float, ground: float = 0.0
) -> NDArray[np.float64]:
    """Draw a positive value for every label, log-normal around 1, and `ground` for the background."""
    values = np.exp(rng.normal(0, spread, int(labels.max()) + 1))
    values[0] = ground
    return np.asarray(values)


def paint(labels: Labels, values: NDArray[np.floating]) -> Signal:
    """Give every object its value: `values[0]` is the background's."""
    return np.asarray(values[labels], np.float32)


def depth(labels: Labels) -> Signal:
    """Return how far each pixel of an object is from the nearest other label: 0.5 at the edge, 0 outside."""
    inner = ~outlines(labels) & (labels > 0)
    return np.asarray((distance_transform_edt(inner) + 0.5) * (labels > 0), np.float32)


def dome(labels: Labels, radius: float) -> Signal:
    """Return the height of objects that rise from 0 at their edge as a ball does, and are flat from `radius` on."""
    rise = np.minimum(depth(labels) / radius, 1)
    return np.asarray(np.sqrt(rise * (2 - rise)), np.float32)


def speckles(
    rng: np.random.Generator, where: NDArray[np.bool_], radius: tuple[float, float], cover: float
) -> Signal:
    """Return small spots as a mask of floats, within `where` only."""
    size = (where.shape[0], where.shape[1])
    return np.asarray((scatter(rng, size, radius, cover, above=True) > 0) & where, np.float32)


def fluorescence(rng: np.random.Generator, signal: Signal, reach: float) -> Image:
    """Record what glows, in the haze of other planes, which is spread over `reach` pixels."""
    return camera(rng, exposed(hazy(rng, exposed(signal), reach)))


# -------------------------------------------------------------------------------------------- families


def nuclei(rng: np.random.Generator, size: Size) -> tuple[Image, Labels]:
    """Fluorescent nuclei: chromatin, nucleoli or bright spots, touching, some out of focus, over a haze."""
    across = extent(rng, size)
    mean = across / 2
    labels = scatter(
        rng,
        size,
        (mean * 0.75, mean * 1.3),
        rng.uniform(0.05, 0.6),
        roughness=rng.uniform(0.03, 0.2),
        stretch=rng.uniform(0.1, 0.3),
        turn=rng.uniform(0, math.pi) if rng.random() < 0.2 else None,
        overlap=0.2,
        gather=rng.uniform(0, 0.6),
    )
    signal = paint(labels, per_object(rng, labels, rng.uniform(0.1, 0.6)))
    signal *= texture(rng, size, max(1.5, mean * rng.uniform(0.15, 0.6)), rng.uniform(0.03, 0.25))
    if mean > 6 and rng.random() < 0.7:  # nucleoli are dark, chromocentres bright
        spots = speckles(rng, labels > 0, (mean * 0.08, mean * 0.25), rng.uniform(0.02, 0.1))
        signal *= 1 + rng.choice([rng.uniform(-0.5, -0.2), rng.uniform(0.3, 1.0)]) * spots
    signal *= 1 - rng.uniform(0, 0.7) * (1 - dome(labels, mean))
    in_focus = per_object(rng, labels, 1)[labels] < rng.uniform(1, 20)
    signal = unevenly_focused(signal, in_focus, fuzz(rng, across), 0.1 * across + 0.5)
    if rng.random() < 0.3:  # debris that nobody wants
        signal += rng.uniform(0.3, 1.5) * gaussian_filter(
            speckles(rng, labels == 0, (0.6, max(1.2, mean * 0.12)), 0.003), 0.7
        )
    return fluorescence(rng, signal, mean * rng.uniform(1, 2)), whole(labels)


def whole_cells(rng: np.random.Generator, size: Size) -> tuple[Image, Labels]:
    """Whole cells in fluorescence: apart or wall to wall, granular or bright at the rim; nuclei may count as objects."""
    across = extent(rng, size, 12)
    mean = across / 2
    if rng.random() < 0.35:  # a confluent layer, with gaps
        labels = mosaic(rng, size, mean)
        gone = rng.random(int(labels.max()) + 1) < rng.uniform(0, 0.5)
        labels = np.where(gone[labels], 0, labels)
    else:
        labels = scatter(
            rng,
            size,
            (mean * 0.7, mean * 1.3),
            rng.uniform(0.2, 0.8),
            roughness=rng.uniform(0.1, 0.45),
            stretch=rng.uniform(0.1, 0.4),
            lobes=int(rng.integers(4, 12)),
            gather=0.3,
        )
    signal = paint(labels, per_object(rng, labels, 0.35, rng.uniform(0, 0.15)))
    inner = nest(rng, labels, (0.35, 0.65))
    nucleus = rng.choice([rng.uniform(0.1, 0.7), 1.0, rng.uniform(1.5, 3)], p=[0.4, 0.2, 0.4])
    rim, thin = np.exp(-depth(labels) / rng.uniform(1, 0.02 * across + 1.5)), rng.uniform(0.2, 0.8)
    if rng.random() < 0.3:  # a stain of the membrane
        signal *= rng.uniform(0.1, 0.4) + rim
        nucleus = 1.0
    else:  # of the cytoplasm: thicker in the middle, with a cleft between neighbours
        signal *= (1 - thin * (1 - dome(labels, mean))) * (1 - 0.6 * rim)
    signal *= texture(rng, size, rng.uniform(1.5, 2 + 0.1 * across), rng.uniform(0.05, 0.3))
    signal *= np.where(inner > 0, nucleus, 1)
    signal = gaussian_filter(signal, fuzz(rng, across) * 0.6)
    if nucleus != 1 and rng.random() < 0.4:  # nuclei are objects within objects
        labels = np.where(inner > 0, inner + int(labels.max()), labels)
    return fluorescence(rng, signal, mean), whole(labels)


def phase(rng: np.random.Generator, size: Size) -> tuple[Image, Labels]:
    """Living cells in phase contrast: grey, granular, spread or round and shining, each in a bright halo."""
    across = extent(rng, size, 10)
    mean = across / 2
    spread = rng.random() < 0.6
    labels = scatter(
        rng,
        size,
        (mean * 0.7, mean * 1.3),
        rng.uniform(0.1, 0.7),
        roughness=rng.uniform(0.1, 0.4) if spread else 0.05,
        stretch=rng.uniform(0.1, 0.4) if spread else 0.1,
        lobes=int(rng.integers(4, 10)),
        overlap=0.1,
        gather=rng.uniform(0, 0.6),
    )
    height = dome(labels, mean * rng.uniform(0.3, 1))
    thick = paint(labels, per_object(rng, labels, 0.25)) * (0.3 + 0.7 * height)
    thick *= texture(rng, size, max(1.2, across * rng.uniform(0.03, 0.12)), rng.uniform(0.05, 0.35))
    if across > 16:
        thick += rng.uniform(0, 0.35) * (nest(rng, labels, (0.4, 0.6)) > 0) * rng.choice([-1, 1])
        thick += rng.uniform(0, 0.8) * speckles(rng, labels > 0, (1, max(1.5, across * 0.02)), 0.03)
    thick = gaussian_filter(thick, fuzz(rng, across) * 0.6)
    reach = rng.uniform(2, 2 + 0.2 * across)
    signal = phase_contrast(thick, reach, rng.uniform(0.15, 0.5) * rng.choice([1, -1], p=[0.8, 0.2]))
    signal = visible(signal) + rng.uniform(0, 0.03) * clouds(rng, size, rng.uniform(3, 12))
    return camera(rng, signal, photons=(150, 3000)), whole(labels)


def brightfield(rng: np.random.Generator, size: Size) -> tuple[Image, Labels]:
    """Cells in transmitted light: rims of a slight defocus, or the relief of interference contrast."""
    across = extent(rng, size)
    mean = across / 2
    labels = scatter(
        rng,
        size,
        (mean * 0.7, mean * 1.3),
        rng.uniform(0.1, 0.6),
        roughness=rng.uniform(0.03, 0.3),
        gather=rng.uniform(0, 0.5),
        overlap=0.1,
    )
    blur = fuzz(rng, across)
    height = dome(labels, mean) * paint(labels, per_object(rng, labels, 0.2))
    height += 0.3 * (nest(rng, labels, (0.3, 0.5)) > 0)
    height += rng.uniform(0, 0.4) * speckles(rng, labels > 0, (1, max(1.5, across * 0.03)), 0.03)
    height = gaussian_filter(height, blur)
    if rng.random() < 0.4:
        signal = relief(rng, height, rng.uniform(0.5, 1.2) * math.sqrt(mean) * 0.6)
    else:
        rings = height - gaussian_filter(height, blur * rng.uniform(1.3, 2.5) + 0.5)
        signal = 0.5 + rng.choice([-1, 1]) * rng.uniform(0.6, 1.5) * rings - rng.uniform(-0.1, 0.25) * height
    signal = visible(signal) + rng.uniform(0, 0.03) * clouds(rng, size, rng.uniform(2, 8))
    return camera(rng, signal, photons=(200, 3000)), whole(labels)


def tissue(rng: np.random.Generator, size: Size) -> tuple[Image, Labels]:
    """Stained tissue or smears: dark nuclei in pink fibres or pale cells, by absorption in three colours."""
    across = extent(rng, size)
    mean = across / 2
    labels = scatter(
        rng,
        size,
        (mean * 0.6, mean * 1.3),
        rng.uniform(0.05, 0.5),
        roughness=rng.uniform(0.08, 0.3),
        stretch=rng.uniform(0.1, 0.5),
        turn=rng.uniform(0, math.pi) if rng.random() < 0.4 else None,
        gather=rng.uniform(0, 0.4),
    )
    dark = paint(labels, per_object(rng, labels, 0.3) * rng.uniform(0.6, 1.6))
    # Vesicular nuclei are pale with a dark rim.
    dark *= 1 - rng.uniform(0, 0.6) * np.minimum(depth(labels) / mean, 1)
    dark *= texture(rng, size, max(1.5, mean * 0.4), rng.uniform(0.1, 0.35))
    dark = gaussian_filter(dark, fuzz(rng, across))
    if rng.random() < 0.35:  # a smear: pale cells on white
        body = scatter(rng, size, (mean * 1.5, mean * 3), rng.uniform(0, 0.6), roughness=0.3, above=True)
        body = np.where(labels > 0, 1, body)
        pale = gaussian_filter(paint(body, per_object(rng, body, 0.4, 0.03) * 0.3), fuzz(rng, across))
    else:
        pale = 0.45 + 0.2 * clouds(rng, size, rng.uniform(0.5, 2) * across)
        grain = (mean * rng.uniform(0.1, 0.4), mean * rng.uniform(0.4, 2))
        pale += 0.15 * clouds(rng, size, grain if rng.random() < 0.5 else grain[::-1])
        holes = scatter(rng, size, (mean, mean * 5), rng.uniform(0, 0.3), roughness=0.3) > 0
        pale = gaussian_filter(np.where(holes & (labels == 0), 0.03, np.clip(pale, 0.05, None)), 1)
    pale = pale * texture(rng, size, 2.5, rng.uniform(0.02, 0.15))
    violet = np.array([0.65, 0.70, 0.29]) + rng.normal(0, 0.08, 3)
    brown = np.array([0.27, 0.57, 0.78]) + rng.normal(0, 0.08, 3)
    pink = np.array([0.07, 0.99, 0.11]) + np.abs(rng.normal(0, 0.08, 3))
    nuclear = brown if rng.random() < 0.15 else violet
    other = violet * 0.6 if rng.random() < 0.25 else pink
    signal = stained([dark * 1.3, pale * rng.uniform(0.3, 1.2)], [nuclear, other])
    if rng.random() < 0.15:  # a grey camera
        return camera(rng, signal.mean(axis=-1), photons=(200, 3000)), whole(labels)
    return camera(rng, signal, photons=(200, 3000)), whole(labels)


def bacteria(rng: np.random.Generator, size: Size) -> tuple[Image, Labels]:
    """Rods and cocci, alone, in chains and packed side by side; phase contrast, fluorescence or brightfield."""
    long = extent(rng, size)
    aspect = rng.choice([1.0, rng.uniform(1.5, 3), rng.uniform(3, 6)], p=[0.25, 0.5, 0.25])
    radius = max(1.7, long / aspect / 2)
    labels = np.zeros(size, np.int32)
    covered, cover = 0, rng.uniform(0.05, 0.5)
    chain, bend = int(rng.choice([1, 2, 4, 8])), rng.uniform(0, 0.4)
    heading = rng.normal(0, 1, 2) if rng.random() < 0.3 else None
    label = 0
    for _ in range(250):
        if covered > cover * labels.size:
            break
        start = rng.uniform(-0.1, 1.1, 2) * size
        links = int(rng.integers(1, chain + 1))
        lengths = np.maximum(2 * radius, 2 * radius * aspect * rng.uniform(0.7, 1.3, links))
        step = max(0.5, radius / 4)
        path = walk(rng, start, float(lengths.sum()), step, bend, heading)
        ends = np.cumsum(lengths) / step
        for begin, end in zip([0, *ends[:-1]], ends, strict=True):
            # A cell's round ends lie within its length, and a septum's width apart from the next's.
            rod = path[
                round(begin + radius / step) : max(
                    round(begin + radius / step) + 1, round(end - radius / step)
                )
            ]
            pixels = tube(rod, radius)
            if draw(labels, pixels, label + 1, overlap=0.1):
                label += 1
                covered += len(np.unique(pixels, axis=0)) if radius < 3 else int(math.pi * radius**2 * aspect)
    labels = whole(labels)
    body = dome(labels, radius) * paint(labels, per_object(rng, labels, 0.15))
    body *= texture(rng, size, max(1.5, radius), rng.uniform(0.02, 0.2))
    body = gaussian_filter(body, min(fuzz(rng, 2 * radius), 0.35 * radius))
    look = rng.random()
    if look < 0.4:
        signal = phase_contrast(body, rng.uniform(1, 3) * radius, rng.uniform(0.2, 0.5))
        return camera(rng, signal, photons=(150, 3000)), labels
    if look < 0.7:
        return camera(rng, exposed(hazy(rng, body, 2 * radius))), labels
    rings = body - gaussian_filter(body, radius * 0.5 + 0.5)
    signal = 0.5 + rng.choice([-1, 1]) * rng.uniform(0.4, 1) * rings - rng.uniform(0, 0.2) * body
    return camera(rng, signal, photons=(150, 3000)), labels


def filaments(rng: np.random.Generator, size: Size) -> tuple[Image, Labels]:
    """Threads, hyphae, fibres: long, thin, winding, above and below each other. A crossed one stays one object."""
    long = extent(rng, size, 24)
    width = math.exp(rng.uniform(math.log(2.5), math.log(max(3.0, min(40.0, long / 5)))))
    labels = np.zeros(size, np.int32)
    wander, count = (
        rng.uniform(0.1, 0.8),
        int(rng.integers(2, 6 + size[0] * size[1] // int(4 * long * width))),
    )
    for label in range(1, min(count, 80) + 1):
        radius = width / 2 * rng.uniform(0.8, 1.25)
        path = walk(
            rng, rng.uniform(0, 1, 2) * size, long * rng.uniform(0.7, 2), max(0.4, radius / 4), wander
        )
        draw(labels, tube(path, radius), label, above=True, overlap=0.25)
    names, numbers = np.unique(labels, return_inverse=True)
    labels = np.asarray(numbers.reshape(size) + (names[0] > 0), np.int32)
    profile = dome(labels, width / 2) * paint(labels, per_object(rng, labels, 0.35))
    profile *= texture(rng, size, max(1.5, width), rng.uniform(0.02, 0.35))
    profile = gaussian_filter(profile, min(fuzz(rng, width), 0.3 * width))
    look = rng.random()
    if look < 0.5:
        return fluorescence(rng, profile, 2 * width), labels
    ground = 0.6 + rng.uniform(0, 0.05) * clouds(rng, size, rng.uniform(4, 30))
    if look < 0.75:
        signal = ground - rng.uniform(0.15, 0.5) * profile
    else:
        signal = phase_contrast(profile, width * rng.uniform(0.5, 1.5), rng.uniform(0.2, 0.5)) + ground - 0.6
    return camera(rng, signal, photons=(100, 2000)), labels


def membranes(rng: np.random.Generator, size: Size) -> tuple[Image, Labels]:
    """Cells wall to wall behind membranes: dark as in electron micrographs, or bright as in fluorescence."""
    across = extent(rng, size, 12)
    mean = across / 2
    labels = mosaic(rng, size, mean, bend=rng.uniform(0.05, 0.3))
    wall = distance_transform_edt(~outlines(labels)) < rng.uniform(0.8, max(1.3, min(6, mean * 0.12)))
    labels[wall] = 0
    inside = labels > 0
    specks = speckles(rng, inside, (1.5, max(2.5, mean * 0.2)), rng.uniform(0, 0.1))
    grain = texture(rng, size, rng.uniform(1.5, 5), rng.uniform(0.03, 0.15))
    if rng.random() < 0.65:
        tones = np.clip(rng.normal(0.7, 0.07, int(labels.max()) + 1), 0.4, 1)
        signal = np.where(wall, rng.uniform(0.1, 0.4), paint(labels, tones) * grain)
        signal *= 1 - rng.uniform(0.2, 0.6) * specks
        return camera(rng, gaussian_filter(signal, rng.uniform(0.5, 1.2)), photons=(30, 400)), whole(labels)
    tones = per_object(rng, labels, 0.4) * rng.uniform(0, 0.3)
    signal = np.where(wall, np.clip(1 + 0.25 * clouds(rng, size, mean), 0.3, 2), paint(labels, tones))
    signal = gaussian_filter(signal * grain + 0.2 * specks, rng.uniform(0.6, 1.5))
    return fluorescence(rng, signal, mean), whole(labels)


def organelles(rng: np.random.Generator, size: Size) -> tuple[Image, Labels]:
    """Electron micrographs: dark mitochondria with cristae, pale vacuoles with vesicles inside, dense droplets."""
    across = extent(rng, size, 12)
    mean = across / 2
    signal = 0.65 * texture(rng, size, rng.uniform(1.5, 3), rng.uniform(0.05, 0.2))
    signal += 0.06 * clouds(rng, size, 2 * across)
    thick = float(np.clip(0.06 * across, 1.0, 4.0)) * rng.uniform(0.8, 1.3)
    if rng.random() < 0.7:  # membranes of the cells, which are not objects here
        wall = distance_transform_edt(~outlines(mosaic(rng, size, 2.5 * mean + 10))) < thick
        signal = np.where(wall, 0.25, signal)
    labels = np.zeros(size, np.int32)
    kinds = [""]
    weights = rng.dirichlet([2, 1, 1])
    covered, cover = 0.0, rng.uniform(0.1, 0.45)
    for _ in range(200):
        if covered > cover * labels.size:
            break
        kind = str(rng.choice(["mitochondrion", "vacuole", "droplet"], p=weights))
        radius = mean * rng.uniform(0.5, 1.2)
        start = rng.uniform(0, 1, 2) * size
        if kind == "mitochondrion":
            radius *= 0.6
            pixels = tube(walk(rng, start, radius * rng.uniform(0.5, 6), radius / 4, 0.4), radius)
        else:
            pixels = np.argwhere(shape_of(rng, radius, 0.12 if kind == "vacuole" else 0.05))
            pixels = pixels - pixels.mean(axis=0).astype(int) + start.astype(int)
        if draw(labels, pixels, len(kinds), overlap=0.02):
            kinds.append(kind)
            covered += np.count_nonzero(labels == len(kinds) - 1)
    inner = nest(rng, labels, (0.25, 0.6))  # vesicles within vacuoles: objects within objects
    for label, kind in enumerate(kinds):
        if kind == "vacuole" and rng.random() < 0.6 and (inner == label).sum() >= 12:
            labels[inner == label] = len(kinds)
            kinds.append("vesicle")
    name = np.array(kinds)[labels]
    cristae = np.sin(clouds(rng, size, max(4.0, mean * 0.8)) * rng.uniform(4, 8)) > rng.uniform(0.3, 0.7)
    matrix = 0.42 + 0.03 * clouds(rng, size, 2) - 0.18 * cristae
    signal = np.where(name == "mitochondrion", matrix, signal)
    signal = np.where(name == "vacuole", 0.85 + 0.03 * clouds(rng, size, 3), signal)
    signal = np.where(name == "vesicle", 0.6 + 0.08 * clouds(rng, size, 2), signal)
    signal = np.where(name == "droplet", rng.uniform(0.15, 0.35) + 0.03 * clouds(rng, size, 3), signal)
    # The membrane is the outermost layer of what it encloses.
    signal = np.where((labels > 0) & (depth(labels) < thick), 0.22, signal)
    return camera(rng, gaussian_filter(signal, rng.uniform(0.5, 1.2)), photons=(30, 500)), whole(labels)


def leaves(rng: np.random.Generator, size: Size) -> tuple[Image, Labels]:
    """Textured regions of any shape above textured regions of any other: the dead-leaves model.

    Regions differ in colour, or in texture alone: its grain, its strength, its direction.
    """
    across = extent(rng, size, 20)
    labels = scatter(
        rng,
        size,
        (max(4, across / 5), across / 2),
        rng.uniform(0.5, 2.5),
        roughness=rng.uniform(0.1, 0.6),
        stretch=rng.uniform(0.1, 0.6),
        lobes=int(rng.integers(3, 12)),
        above=True,
    )
    count = int(labels.max()) + 1
    shades, strength = rng.uniform(0.1, 0.9, (count, 3)), rng.uniform(0.02, 0.25, (count, 1))
    if across > 30 and rng.random() < 0.4:
        shades, strength = 0.5 + (shades - 0.5) * rng.uniform(0, 0.2), strength + 0.1
    # A grain must be finer than what it fills.
    scales = np.array([(1.5, 1.5), (4, 4), (12, 12), (1.5, 10), (10, 1.5)]) * np.clip(across / 80, 0.3, 2)
    weights = rng.dirichlet(np.full(len(scales), 0.3), count) * strength
    signal = shades[labels].astype(np.float32)
    for scale, weight in zip(scales, weights.T, strict=True):
        signal += (paint(labels, weight) * clouds(rng, size, scale))[..., None]
    signal = gaussian_filter(signal, (*[rng.uniform(0.3, 1.2)] * 2, 0))
    signal = signal if rng.random() < 0.4 else signal[..., 0]
    # What little shows of a region behind others is not worth a click.
    return camera(rng, signal, photons=(100, 2000)), whole(labels, max(12, round(0.02 * across**2)))


def vesicles(rng: np.random.Generator, size: Size) -> tuple[Image, Labels]:
    """Vesicles, droplets and yeasts at low magnification: small, apart and crisp, brighter or darker than their ground."""
    across = math.exp(rng.uniform(math.log(8), math.log(32)))
    mean = across / 2
    labels = scatter(
        rng,
        size,
        (mean * 0.8, mean * 1.25),
        rng.uniform(0.02, 0.15),
        roughness=rng.uniform(0, 0.1),
        stretch=rng.uniform(0, 0.25),
        overlap=0.05,
        gather=rng.uniform(0, 0.2),
    )
    signal = paint(labels, per_object(rng, labels, rng.uniform(0.05, 0.4)))
    signal *= texture(rng, size, 3, rng.uniform(0, 0.2))
    if rng.random() < 0.3:  # a thin coat with less inside
        signal *= 1 - rng.uniform(0.2, 0.6) * (depth(labels) > max(1.5, 0.25 * mean))
    signal = gaussian_filter(signal, rng.uniform(0.5, 0.9))
    ground = texture(rng, size, rng.uniform(2, across), rng.uniform(0, 0.08))
    ground *= 1 + rng.uniform(0, 0.15) * clouds(rng, size, size[0] / 2)
    if rng.random() < 0.35:
        signal = ground * np.clip(1 - rng.uniform(0.3, 0.8) * signal, 0, None)
    else:
        signal = rng.uniform(0.05, 0.6) * ground + signal
    return camera(rng, exposed(signal)), whole(labels)


FAMILIES: dict[str, Family] = {
    "nuclei": nuclei,
    "cells": whole_cells,
    "phase": phase,
    "brightfield": brightfield,
    "tissue": tissue,
    "bacteria": bacteria,
    "filaments": filaments,
    "membranes": membranes,
    "organelles": organelles,
    "leaves": leaves,
    "vesicles": vesicles,
}


# ---------------------------------------------------------------------------------------------- stacks


def nuclei_volume(rng: np.random.Generator, size: tuple[int, int, int]) -> tuple[Image, Labels]:
    """Fluorescent nuclei in a stack: touching, textured, blurred more along Z than across, dimmer with depth."""
    apart = rng.uniform(1, 5)
    mean = min(extent(rng, size, 12), 2 * size[0] * apart) / 2
    labels = np.zeros(size, np.int32)
    # Smoothly bent space makes bent ellipsoids; it is measured in pixels across.
    grid = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float32) for n in size], indexing="ij"))
    grid[0] *= apart
    grid += 0.12 * mean * np.stack([clouds(rng, size, mean / np.array([apart, 1, 1])) for _ in range(3)])
    room = np.array([apart, 1, 1]) * size
    cover, label = rng.uniform(0.05, 0.3), 0
    for _ in range(200):
        if np.count_nonzero(labels) > cover * labels.size:
            break
        radii = mean * np.exp(rng.normal(0, 0.2, 3))
        centre = rng.uniform(0, 1, 3) * room
        unit = np.array([apart, 1, 1])
        near = tuple(
            slice(max(0, int((c - 1.5 * r) / u)), max(0, int((c + 1.5 * r) / u) + 2))
            for c, r, u in zip(centre, radii, unit, strict=True)
        )
        part = (grid[(slice(None), *near)] - centre[:, None, None, None]) / radii[:, None, None, None]
        mask = (part**2).sum(axis=0) <= 1
        field = labels[near]
        if mask.sum() >= 30 and np.count_nonzero(field[mask]) <= 0.1 * mask.sum():
            label += 1
            field[mask & (field == 0)] = label
    labels = whole(labels, 30)
    signal = paint(labels, per_object(rng, labels, 0.3))
    signal *= texture(rng, size, max(1.5, 0.3 * mean), rng.uniform(0.05, 0.2))
    blur = fuzz(rng, mean)
    signal = gaussian_filter(signal, (rng.uniform(1, 3) * blur / apart, blur, blur))
    signal *= np.linspace(1, rng.uniform(0.5, 1), size[0], dtype=np.float32)[:, None, None]
    return fluorescence(rng, signal, mean / 2), labels


def organelles_volume(rng: np.random.Generator, size: tuple[int, int, int]) -> tuple[Image, Labels]:
    """Cells and mitochondria in a stack of electron micrographs: objects are the cells, the mitochondria, or both."""
    apart = rng.uniform(1, 5)
    unit = np.array([apart, 1, 1])
    mean = extent(rng, size, 24) / 2
    bodies = mosaic(rng, size, mean, unit, bend=rng.uniform(0.05, 0.3))
    thick = rng.uniform(1.0, max(1.3, min(3, 0.1 * mean)))
    # Where planes are further apart than a membrane is thick, one that lies between two of them is not seen.
    seen = (0, 1, 2) if apart < thick else (1, 2)
    sampling = unit if apart < thick else np.array([1e3, 1, 1])
    inward = distance_transform_edt(~outlines(bodies, seen), sampling=sampling).astype(np.float32)
    bodies[inward < thick] = 0
    tones = np.clip(rng.normal(0.7, 0.06, int(bodies.max()) + 1), 0.4, 1)
    tones[0] = rng.uniform(0.15, 0.3)
    signal = paint(bodies, tones) * texture(rng, size, 2, 0.08)
    inner = np.zeros(size, np.int32)
    for label in range(1, min(60, max(6, round(np.prod(unit * size) / (4 * mean**3)))) + 1):
        radius = mean * rng.uniform(0.15, 0.4)
        deep = np.flatnonzero(inward > thick + 0.7 * radius)
        if not deep.size:
            continue
        home = np.stack(np.unravel_index(rng.choice(deep), size))
        path = walk(rng, home * unit, radius * rng.uniform(2, 12), radius / 3, 0.4)
        pixels = tube(path / unit, radius / unit)
        pixels = pixels[np.all((pixels >= 0) & (pixels < size), axis=1)]
        # A mitochondrion stays in its cell.
        draw(inner, pixels[bodies[tuple(pixels.T)] == bodies[tuple(home)]], label, overlap=0.05)
    inner = whole(inner, 30)
    cristae = np.sin(clouds(rng, size, np.maximum(1, 0.3 * mean / unit)) * rng.uniform(3, 7)) > 0.5
    skin = distance_transform_edt(~outlines(inner, seen), sampling=sampling) < max(1.0, thick * 0.6)
    signal = np.where(inner > 0, np.where(skin, 0.22, 0.45 - 0.15 * cristae), signal)
    blur = rng.uniform(0.5, 1)
    signal = gaussian_filter(signal, (blur / apart, blur, blur))
    wanted = str(rng.choice(["cells", "mitochondria", "both"]))
    if wanted == "cells" or not inner.any():
        labels = bodies
    elif wanted == "mitochondria":
        labels = inner
    else:
        labels = np.where(inner > 0, inner + int(bodies.max()), bodies)
    return camera(rng, signal, photons=(30, 400)), whole(labels, 30)


VOLUMES: dict[str, VolumeFamily] = {"nuclei": nuclei_volume, "organelles": organelles_volume}
