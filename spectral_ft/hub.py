"""The only door to the Hugging Face hub: every refusal becomes a sentence that names the way out."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spectral_ft.errors import HubError


@contextmanager
def hub_errors(what: str, *, override: str) -> Iterator[None]:
    """Turn the hub's exceptions into ours.

    Args:
        what: What is asked for, such as `model meta-llama/Llama-2-7b-hf`.
        override: The option that takes a local copy, such as `model.path=FOLDER`.

    Yields:
        Nothing.

    Raises:
        HubError: If the hub cannot be reached, knows no such thing, or wants a licence accepted.
    """
    import httpx
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub import errors

    local = f"Or use a local copy: {override}."
    try:
        yield
    except errors.GatedRepoError as error:
        raise HubError(
            f"{what} is gated: accept its licence on its hub page, then log in with `hf auth login` or set HF_TOKEN. "
            f"{local}"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, DatasetNotFoundError) as error:
        raise HubError(
            f"the hub knows no {what}, or it is private: check the id and the revision, or log in. {local}"
        ) from error
    except (
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
        errors.HfHubHTTPError,
        httpx.HTTPError,
        ConnectionError,
    ) as error:
        offline = " HF_HUB_OFFLINE is set." if os.environ.get("HF_HUB_OFFLINE") else ""
        raise HubError(f"{what}: the hub cannot be reached ({type(error).__name__}).{offline} {local}") from error


def download_model(model: str, *, revision: str | None, patterns: list[str]) -> Path:
    """A model's files, from the hub or its local cache.

    Args:
        model: Hub id.
        revision: Branch, tag or commit; None takes the newest.
        patterns: File name patterns to take.

    Returns:
        The snapshot's folder.

    Raises:
        HubError: If the hub cannot be reached or refuses.
    """
    from huggingface_hub import snapshot_download

    with hub_errors(f"model {model}", override="model.path=FOLDER"):
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))


def download_rows(dataset: str, *, name: str | None, split: str, override: str) -> list[dict[str, Any]]:
    """A data set's rows, from the hub or its local cache.

    Args:
        dataset: Hub id.
        name: Configuration of the data set.
        split: Split.
        override: The option that takes a local copy.

    Returns:
        One dict a row.

    Raises:
        HubError: If the hub cannot be reached or refuses.
    """
    import datasets

    with hub_errors(f"data set {dataset}", override=override):
        return [dict(row) for row in datasets.load_dataset(dataset, name, split=split)]
