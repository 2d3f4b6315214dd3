"""What all tests share: a small model, repeatable randomness, and a home folder of their own."""

from __future__ import annotations

import os
from pathlib import Path

# The tests' networks are small, and threads that wait for each other spin: one is faster, and far faster on a machine
# with other things to do. Before NumPy and PyTorch are loaded, which read it then.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# The first example of a property test may load torch; later ones are quick.
settings.register_profile(
    "house", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.load_profile("house")

pytest.register_assert_rewrite("panel", "window")  # which tests import before they are plugins


@pytest.fixture(autouse=True, scope="session")
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep models and settings of whoever runs the tests out of them."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
            patch.setenv(name, str(home / name))
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    """Return a generator that is the same in each run."""
    return np.random.default_rng(0)


@pytest.fixture
def stack(rng: np.random.Generator) -> np.ndarray:
    """Return (5, 48, 70) uint16: noise, so that no plane and no pixel can be taken for another."""
    return rng.integers(0, 60000, (5, 48, 70)).astype(np.uint16)


@pytest.fixture(scope="session")
def default_model():
    """Return the model in the package; tests must leave it as it is."""
    from napari_interformer import load_model

    return load_model()


@pytest.fixture(scope="session")
def small_model():
    """Return a model of the real structure, small and with random weights: fast, its masks are nonsense."""
    import torch

    from napari_interformer.model import InterFormer, InterFormerConfig

    torch.manual_seed(0)
    config = InterFormerConfig(
        window=64,
        click_window=64,
        embed_dim=24,
        layers=2,
        heads=2,
        channels=(8, 16, 32, 64),
        imsa_mlp_ratios=(2, 2, 2, 2),
        head_width=8,
        zoom_min_size=32,
    )
    return InterFormer(config).eval()


@pytest.fixture
def shared() -> Path:
    """Return the folder beside the repository with the reference's numbers and the data; skip where it is not."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("../shared is not here")
    return folder


class BlobModel:
    """A model that anyone can compute by hand: a click selects the bright blob under it, a red click drops it.

    Its features are the image itself; whatever the session, the store and the window do around a model can be
    tested exactly with it.
    """

    strides = (4, 8, 16, 32)
    channels = (1, 1, 1, 1)
    fingerprint = decoder_fingerprint = "blobs"
    training = False

    def __init__(self, window: int = 64) -> None:
        import torch

        from napari_interformer.model import InterFormerConfig

        self.config = InterFormerConfig(window=window, click_window=window, inner_radius=1, zoom_min_size=32)
        self.device = torch.device("cpu")
        self.decoded = 0

    def encode_pixels(self, pixels, before_layer=None):
        grey = np.pad(pixels[..., 0], [(0, 0), *[(0, -n % 32) for n in pixels.shape[1:3]]])
        return [grey[:, None, s // 2 :: s, s // 2 :: s].astype(np.float32) for s in self.strides]

    def prepare_maps(self, maps):
        return maps

    def decode_logits(self, maps, reference, roi=None):
        from scipy.ndimage import label

        self.decoded += 1
        bright = np.kron(np.asarray(maps[0][0]) > 100, np.ones((4, 4), bool))
        blobs, _ = label(bright)
        wanted = set(blobs[reference == 4]) - set(blobs[reference == 0]) - {0}
        return np.where(np.isin(blobs, list(wanted)), 4.0, -4.0).astype(np.float32)


@pytest.fixture
def blob_model():
    """Return a fresh `BlobModel`."""
    return BlobModel()


def blobs(shape=(160, 192)):
    """Return an image of six bright squares on a dark ground, and their labels, in C order."""
    image, labels = np.zeros(shape, np.uint8), np.zeros(shape, np.int32)
    for number, (y, x) in enumerate([(16, 16), (16, 80), (16, 144), (96, 16), (96, 80), (96, 144)], 1):
        image[y : y + 32, x : x + 32] = 200
        labels[y : y + 32, x : x + 32] = number
    return image, labels
