"""One hub on loopback for all tests here, and a fresh cache for each."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.server import Hub


@pytest.fixture(scope="session")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """The server with its repositories."""
    from tests.hub.repositories import make_data_sets, make_faulty, make_models

    root = tmp_path_factory.mktemp("hub")
    make_models(root)
    make_data_sets(root)
    make_faulty(root)
    hub = Hub(root)
    yield hub
    hub.close()


def point_to(hub: Hub, home: Path, patch: pytest.MonkeyPatch) -> None:
    """Let the libraries of this process ask this hub, with a cache of its own.

    They read their variables when they are imported, so what they made of them is set.
    """
    import datasets.config
    from huggingface_hub import HfFileSystem, constants

    for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_TOKEN"):
        patch.delenv(variable, raising=False)
    patch.setattr(constants, "ENDPOINT", hub.url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    patch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    patch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
    patch.setattr("spectral_ft.hub.WAITS", (0.0, 0.0))
    HfFileSystem.clear_instance_cache()


@pytest.fixture
def hub(loopback: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub, well-behaved, and an empty cache."""
    loopback.behave()
    point_to(loopback, tmp_path / "home", monkeypatch)
    return loopback


@pytest.fixture(scope="module")
def shared_cache(loopback: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """The hub with one cache for a whole module."""
    loopback.behave()
    with pytest.MonkeyPatch.context() as patch:
        point_to(loopback, tmp_path_factory.mktemp("home"), patch)
        yield loopback
