"""What makes two runs the same run: their resolved configuration, with paths replaced by content."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spectral_ft.errors import ConfigError
from spectral_ft.fingerprint import forget_fingerprints, path_fingerprint, text_fingerprint

RECORD_FORMAT = 2
"""Of the files in a run folder; part of every identity."""

PATHS = ("model.path", "dataset.data_dir", "benchmark.data_dir", "general_text.path", "adapter", "rescore", "tuned")
"""Options whose content counts, not their name."""

LEFT_OUT = (
    "tracking",
    "spectrum.cache",
    "spectrum.workers",
    "spectrum.memory_gib",
    "spectrum.device",
    "quantization.on_cpu",
    "benchmark.cache",
    "analysis",
    "drift",
    "planning",
    "figures",
    "verify",
    "hydra",
)
"""Options that change no result."""

AT_REST: Mapping[str, Any] = {"tuned": None, "energy": None, "edge": False, "weighting": "none", "curve": False}
"""Options of single commands: at these values they are left out, so that other runs keep their identity."""

LENGTH = 12
"""Hexadecimal digits of an identity."""


def run_id(config: Mapping[str, Any]) -> str:
    """The identity of a run.

    Args:
        config: Resolved configuration, plain dicts.

    Returns:
        12 hexadecimal digits.
    """
    if config.get("verify"):
        forget_fingerprints()
    flat = settings(config)
    for key in PATHS:
        if flat.get(key) is not None:
            named, read = flat[key], WHAT_IS_READ.get(key, lambda folder: [folder])
            flat[key] = (
                [_content(str(one), read) for one in named] if isinstance(named, list) else _content(str(named), read)
            )
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
        and not (key in AT_REST and value == AT_REST[key])
    }


def adapter_folder(named: Path) -> Path:
    """Where an adapter lies.

    Args:
        named: Its folder, or that of a run which has one.

    Returns:
        Its folder, which may not exist.
    """
    return named / "adapter" if (named / "adapter").is_dir() else named


def scored_files(named: Path) -> list[Path]:
    """What is read of a folder with scores.

    Args:
        named: The folder.

    Returns:
        Scores and samples, those that are there; itself where it has neither.
    """
    return [path for path in (named / "scores.json", named / "samples") if path.exists()] or [named]


WHAT_IS_READ: Mapping[str, Callable[[Path], list[Path]]] = {
    "adapter": lambda named: [adapter_folder(named)],
    "rescore": scored_files,
}
"""Of the folders of some options, which other files may join later."""


def _content(named: str, read: Callable[[Path], list[Path]]) -> str:
    try:
        return " ".join(path_fingerprint(path) for path in read(Path(named).expanduser()))
    except ConfigError:
        return f"missing: {named}"  # the stage that needs it will say so in its own words


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            flat |= _flatten(inner, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = inner
    return flat
