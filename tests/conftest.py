"""What all tests share: a small model, repeatable randomness, and a home folder of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# The first example of a property test may load torch; later ones are quick.
settings.register_profile(
    "house", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.load_profile("house")


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
