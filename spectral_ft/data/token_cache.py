"""Tokenised examples on disk, so that the same texts are tokenised once.

An entry is one safetensors file: the token ids of all rows end to end, their labels likewise, where each row ends, and
a digest, without which a flipped bit would be another token. Its name is a digest of all that the rows depend on:
the texts, the tokenizer, the settings, and `FORMAT`.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from transformers import PreTrainedTokenizerBase

from spectral_ft.data.dataset import Example
from spectral_ft.data.tokenised import TokenisedExamples, tokenise
from spectral_ft.storage import replacing

log = logging.getLogger(__name__)
FORMAT = 4
"""Of the entries and of what `tokenise` makes of a text: raise it when either changes."""


def cached_tokenise(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    *,
    cache: Path | None,
    tokenizer_fingerprint: str,
    kind: Literal["causal_lm", "seq2seq", "classifier"] = "causal_lm",
    labels: Sequence[str] | None = None,
    max_length: int,
    too_long: Literal["truncate", "drop", "error"],
    train_on_inputs: bool,
) -> TokenisedExamples:
    """`tokenise`, or what it gave for the same texts, tokenizer and settings before.

    A second process with the same examples waits, and then reads what the first one kept. An entry that is damaged is
    made again, with a warning.

    Args:
        examples: Prompts and completions.
        tokenizer: A fast tokenizer.
        cache: Folder of the entries, made where it is missing; None keeps nothing.
        tokenizer_fingerprint: Of the tokenizer's files and of whatever else decides its ids.
        kind: Of the model.
        labels: Of a classifier, in the order of their ids.
        max_length: Tokens; for seq2seq of the prompt and, apart from it, of the completion.
        too_long: What to do with a longer example: cut it at the end, leave it out, or refuse.
        train_on_inputs: Loss on the prompt too.

    Returns:
        The examples, and how many were cut or left out.

    Raises:
        ConfigError: As `tokenise`; then nothing is kept.
        DataError: As `tokenise`; then nothing is kept.
    """
    settings: dict[str, Any] = {
        "kind": kind,
        "labels": labels and list(labels),
        "max_length": max_length,
        "too_long": too_long,
        "train_on_inputs": train_on_inputs,
    }
    if cache is None:
        return tokenise(examples, tokenizer, **settings)
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{_digest(examples, tokenizer_fingerprint, settings)}.safetensors"
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            try:
                return _read(path)
            except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
                log.warning("cached tokens are damaged (%s); they are made again: %s", error, path)
        fresh = tokenise(examples, tokenizer, **settings)
        _write(path, fresh)
        return fresh


def _digest(examples: Sequence[Example], tokenizer_fingerprint: str, settings: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps([FORMAT, tokenizer_fingerprint, settings], sort_keys=True).encode())
    for example in examples:
        # quoted, so that no two lists of texts are written alike; the row that a text comes from is no matter
        digest.update(json.dumps([example.prompt, example.completion]).encode())
    return digest.hexdigest()


def _write(path: Path, examples: TokenisedExamples) -> None:
    arrays: dict[str, np.ndarray] = {"places": np.array(examples.places, dtype=np.int64)}
    for column in ("input_ids", "labels"):
        values = [row[column] for row in examples.rows]
        if isinstance(values[0], int):  # one label a row
            arrays[column] = np.array(values, dtype=np.int32)
            continue
        arrays[column] = np.fromiter(chain.from_iterable(values), dtype=np.int32)
        arrays[_ends(column)] = np.cumsum([len(value) for value in values], dtype=np.int64)
    counts = {"truncated": str(examples.truncated), "dropped": str(examples.dropped)}
    with replacing(path, durable=False) as part:
        save_file(arrays, part, metadata={**counts, "checksum": _checksum(arrays, counts)})


def _read(path: Path) -> TokenisedExamples:
    with safe_open(path, framework="numpy") as file:
        head = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    counts = {name: head[name] for name in ("truncated", "dropped")}
    if _checksum(arrays, counts) != head["checksum"]:
        raise ValueError("the checksum differs")
    input_ids, labels = (_values(arrays, column) for column in ("input_ids", "labels"))
    rows = [{"input_ids": ids, "labels": label} for ids, label in zip(input_ids, labels, strict=True)]
    return TokenisedExamples(rows, int(counts["truncated"]), int(counts["dropped"]), arrays["places"].tolist())


def _values(arrays: Mapping[str, np.ndarray], column: str) -> list[Any]:
    flat = arrays[column].tolist()
    if _ends(column) not in arrays:
        return list(flat)
    return [flat[start:end] for start, end in pairwise([0, *arrays[_ends(column)].tolist()])]


def _ends(column: str) -> str:
    return f"{column}_ends"


def _checksum(arrays: Mapping[str, np.ndarray], counts: Mapping[str, str]) -> str:
    found = hashlib.blake2b(json.dumps(counts, sort_keys=True).encode(), digest_size=16)
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        found.update(arrays[name].tobytes())
    return found.hexdigest()
