"""A user of W&B without key, settings or network."""

import pytest

from .servers import KEY


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """A user without a key."""
    for variable in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def somebody(nobody, monkeypatch):
    """A user with a key, and no server yet."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    return nobody
