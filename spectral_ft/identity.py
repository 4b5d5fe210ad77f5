"""What makes two runs the same run: their resolved configuration, with paths replaced by content."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectral_ft.errors import ConfigError
from spectral_ft.fingerprint import path_fingerprint, text_fingerprint

RECORD_FORMAT = 2
"""Of the files in a run folder; part of every identity."""

PATHS = ("model.path", "dataset.data_dir", "benchmark.data_dir", "general_text.path", "adapter", "rescore")
"""Options whose content counts, not their name."""

LEFT_OUT = (
    "tracking",
    "spectrum.cache",
    "spectrum.workers",
    "spectrum.memory_gib",
    "spectrum.device",
    "benchmark.cache",
    "analysis",
    "drift",
    "planning",
    "figures",
    "hydra",
)
"""Options that change no result."""

LENGTH = 12
"""Hexadecimal digits of an identity."""


def run_id(config: Mapping[str, Any]) -> str:
    """The identity of a run.

    Args:
        config: Resolved configuration, plain dicts.

    Returns:
        12 hexadecimal digits.
    """
    flat = settings(config)
    for key in PATHS:
        if flat.get(key) is not None:
            named = flat[key]
            flat[key] = [_content(str(one)) for one in named] if isinstance(named, list) else _content(str(named))
    text = json.dumps({"format": RECORD_FORMAT, **flat}, sort_keys=True, default=str)
    return text_fingerprint(text)[:LENGTH]


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options that can change a result, paths as they were given.

    Args:
        config: Resolved configuration, plain dicts.

    Returns:
        Option, with points between its parts, to value.
    """
    return {
        key: value
        for key, value in _flatten(config).items()
        if not any(key == left or key.startswith(f"{left}.") for left in LEFT_OUT)
    }


def _content(path: str) -> str:
    try:
        return path_fingerprint(Path(path).expanduser())
    except ConfigError:
        return f"missing: {path}"  # the stage that needs it will say so in its own words


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            flat |= _flatten(inner, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = inner
    return flat
