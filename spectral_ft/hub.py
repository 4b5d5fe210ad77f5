"""The only door to the Hugging Face hub: every refusal becomes a sentence that names the way out."""

import errno
import glob
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from spectral_ft.errors import HubError

WAITS = (1.0, 2.0, 4.0)
"""Seconds before each further try if the hub is busy or down."""
BUSY = {
    429: "too many requests",
    500: "internal error",
    502: "bad gateway",
    503: "service unavailable",
    504: "gateway timeout",
}
WORDS = (
    (
        r"Dataset scripts are no longer supported, but found (\S+)",
        "is made by a program ({}), and no program of the hub is run: take a copy in parquet, CSV or JSON files",
        None,
    ),
    (r"BuilderConfig '(.*)' not found\. Available: \[(.*)\]", "has no configuration {!r}; it has {}", "name"),
    (r"(?s)Config name is missing.*available configs: \[(.*?)\]", "has several configurations, {}", "name"),
    (r"Unknown split \"(.*)\"\. Should be one of \[(.*)\]", "has no split {!r}; it has {}", "split"),
)
"""What the datasets library tells by words alone, our words for it, and the option of `hub` that it is about."""
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
Answer = TypeVar("Answer")
log = logging.getLogger(__name__)


def ask_hub(call: Callable[[], Answer], what: str, *, override: str, revision: str | None = None) -> Answer:
    """Call something that asks the hub, again if the hub is busy, and turn its exceptions into ours.

    Args:
        call: What asks. It may run several times.
        what: What is asked for, such as `model meta-llama/Llama-2-7b-hf`.
        override: The option that takes a local copy, such as `model.path=FOLDER`.
        revision: Branch, tag or commit that is asked for.

    Returns:
        What the call returns.

    Raises:
        HubError: If the hub cannot be reached or refuses.
    """
    from datasets.exceptions import DatasetsError
    from httpx2 import HTTPError
    from pyarrow import ArrowException

    library = (OSError, HTTPError, DatasetsError, ArrowException, ValueError, RuntimeError)
    tries = 0
    while True:
        tries += 1
        try:
            return call()
        except library as error:
            status = _status(error)
            if status in BUSY and tries <= len(WAITS):
                wait = WAITS[tries - 1]
                log.warning("%s: the hub answers %d (%s), asking again in %g s", what, status, BUSY[status], wait)
                time.sleep(wait)
                continue
            sentence = _refusal(error, what, override=override, revision=revision, tries=tries)
            if sentence is None:
                raise
            raise HubError(f"{sentence} Or use a local copy: {override}.") from error


def download_model(model: str, *, revision: str | None, choose: Callable[[Sequence[str]], Sequence[str]]) -> Path:
    """Some of a model's files, from the hub or its local cache.

    Args:
        model: Hub id.
        revision: Branch, tag or commit; None takes the newest.
        choose: From the names of all files of the repository, those that are needed.

    Returns:
        The snapshot's folder, which is named for its commit. Besides `config.json` it holds what was chosen, now or
        before.

    Raises:
        HubError: If the hub cannot be reached or refuses, or the repository holds no `config.json`.
    """
    what = f"model {model}"
    return ask_hub(
        lambda: _snapshot(model, revision, choose, what), what, override="model.path=FOLDER", revision=revision
    )


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

    def load() -> list[dict[str, Any]]:
        return [dict(row) for row in datasets.load_dataset(dataset, name, split=split)]

    return ask_hub(load, f"data set {dataset}", override=override)


def _snapshot(model: str, revision: str | None, choose: Callable[[Sequence[str]], Sequence[str]], what: str) -> Path:
    from huggingface_hub import get_cached_repo_tree, is_offline_mode, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, IncompleteSnapshotError

    folder = Path(snapshot_download(model, revision=revision, allow_patterns=["config.json"]))
    try:
        sizes = {file.path: file.size for file in get_cached_repo_tree(model, revision=folder.name)}
    except CachedRepoTreeNotFoundError:  # another library filled the cache, file by file
        sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
    if "config.json" not in sizes:
        listed = ", ".join(sorted(sizes)[:8]) or "nothing"
        raise HubError(f"{what} holds no config.json, so it is no model of transformers; it holds {listed}.")
    wanted = choose(tuple(sizes))
    missing = [name for name in wanted if not (folder / name).exists()]
    if missing and is_offline_mode():
        raise IncompleteSnapshotError(f"{', '.join(missing)} of {what}", str(folder))
    if missing and (size := sum(sizes.get(name, 0) for name in missing)) > 50_000_000:
        log.info("downloading %d files, %.2f GB, of %s", len(missing), size / 1e9, what)
    return Path(snapshot_download(model, revision=folder.name, allow_patterns=[glob.escape(name) for name in wanted]))


def _causes(error: BaseException) -> Iterator[BaseException]:
    # The error, its causes and its contexts, each once; datasets hides causes with `from None`.
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop(0)
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [other for other in (one.__cause__, one.__context__) if other is not None]


def _status(error: BaseException) -> int | None:
    # HTTP status of the first answer of the hub in the chain.
    answers = (getattr(one, "response", None) for one in _causes(error))
    return next((int(answer.status_code) for answer in answers if answer is not None), None)


def _refusal(error: Exception, what: str, *, override: str, revision: str | None, tries: int) -> str | None:
    # The sentence for a refusal; None if the error is not about the hub.
    chain = list(_causes(error))
    if any(getattr(one, "errno", None) == errno.ENOSPC for one in chain):
        return None  # the entries explain it
    if denied := next((one for one in chain if isinstance(one, PermissionError)), None):
        return f"{what}: the cache cannot be written ({denied}): set HF_HOME to a folder of your own."
    group = override.partition(".")[0]
    return _access(chain, what, revision) or _network(chain, what, tries) or _content(chain, what, group)


def _access(chain: list[BaseException], what: str, revision: str | None) -> str | None:
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub import errors

    words = "\n".join(str(one) for one in chain)
    gated = next((one for one in chain if isinstance(one, errors.GatedRepoError)), None)
    if (gated is not None and _status(gated) == 403) or "to ask for access" in words:
        return (
            f"{what} is gated, and your token has no access to it: accept its licence on its hub page with the account "
            "of the token, or set HF_TOKEN to a token of another account."
        )
    if gated is not None or "is a gated dataset" in words:
        return f"{what} is gated: accept its licence on its hub page, then log in with `hf auth login` or set HF_TOKEN."
    if "Invalid credentials in Authorization header" in words:
        return f"{what}: the hub does not accept your token: set HF_TOKEN to a valid one, or `hf auth login` again."
    missing = any(isinstance(one, errors.RevisionNotFoundError) for one in chain)
    if missing or re.search("Revision '.*' doesn't exist", words):
        return f"{what} has no revision {revision!r}: check model.revision, or leave it out for the newest."
    if any(isinstance(one, errors.RepositoryNotFoundError | DatasetNotFoundError) for one in chain):
        return f"the hub knows no {what}, or it is private: check the id, or log in with `hf auth login`."
    invalid = next((one for one in chain if isinstance(one, errors.HFValidationError)), None)
    return f"{what}: no such id can be ({invalid}): write ORGANISATION/NAME." if invalid else None


def _network(chain: list[BaseException], what: str, tries: int) -> str | None:
    import httpx2
    from datasets import config
    from huggingface_hub import constants, errors, is_offline_mode

    status = _status(chain[0])
    if status in BUSY:
        ways = "log in for a higher limit, or try again later" if status == 429 else "try again later"
        return f"{what}: the hub answers {status} ({BUSY[status]}), also after {tries} tries: {ways}."
    unreachable = (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, httpx2.HTTPError, ConnectionError)
    absent = any(isinstance(one, unreachable) or str(one).startswith("Couldn't find cache for") for one in chain)
    tried = any(isinstance(one, httpx2.HTTPError) for one in chain)
    if absent and not tried and (is_offline_mode() or config.HF_HUB_OFFLINE):
        partly = any(isinstance(one, errors.IncompleteSnapshotError) for one in chain)
        names = [name for name in OFFLINE if os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}]
        return (
            f"{what} is {'only partly' if partly else 'not'} in the local cache, and the hub is not asked, since "
            f"{(*names, *OFFLINE)[0]} is set: unset it to download what is missing."
        )
    broken = (httpx2.ReadError, httpx2.RemoteProtocolError, httpx2.ReadTimeout)
    if any(isinstance(one, broken) or str(one).startswith("Consistency check failed") for one in chain):
        return (
            f"{what}: the connection to the hub broke in the middle of a download ({type(chain[0]).__name__}). Whole "
            "files are kept: call the same command again, and it fetches what is missing."
        )
    if absent:
        why = f"status {status}" if status is not None else type(_last_of(chain, httpx2.HTTPError)).__name__
        return (
            f"{what}: the hub at {constants.ENDPOINT} cannot be reached ({why}): check the connection and HF_ENDPOINT."
        )
    return None


def _last_of(chain: list[BaseException], kind: type[BaseException]) -> BaseException:
    return next((one for one in chain if isinstance(one, kind)), chain[0])


def _content(chain: list[BaseException], what: str, group: str) -> str | None:
    # What is wrong with the content of a data set.
    from datasets.data_files import EmptyDatasetError
    from datasets.exceptions import DataFilesNotFoundError, DatasetGenerationError
    from pyarrow import ArrowException

    for pattern, sentence, option in WORDS:
        if match := next(filter(None, (re.search(pattern, str(one)) for one in chain)), None):
            way_out = f": set {group}.hub.{option} to one of them." if option and group != "benchmark" else "."
            return f"{what} {sentence.format(*match.groups())}{way_out}"
    if any(isinstance(one, EmptyDatasetError | DataFilesNotFoundError) for one in chain):
        return f"{what} holds no data files that can be read: check its hub page and the id."
    broken = next((one for one in chain if isinstance(one, DatasetGenerationError | ArrowException)), None)
    if broken is None:
        return None
    cause = broken.__cause__ or broken
    return f"{what}: its files cannot be read ({type(cause).__name__}: {(str(cause).splitlines() or [''])[0]})."


def config_errors() -> tuple[type[Exception], ...]:
    """What transformers raises of a `config.json` with wrong types or impossible values.

    Returns:
        Classes of errors.
    """
    from huggingface_hub.errors import StrictDataclassError

    builtin = (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)
    return (*builtin, AssertionError, ImportError, StrictDataclassError)
