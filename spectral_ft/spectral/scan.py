"""Spectrum's published scans, `snr_results_MODEL.json`: read as reports without spectra, and written.

Two forms exist: `{MATRIX: {"snr": NUMBER, "type": TYPE}}`, and `{TYPE: {MATRIX: NUMBER}}`. Both may hold
`Infinity`, where an older script divided by an empty noise set, and `NaN`, where it failed.
"""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from spectral_ft.errors import CheckpointError
from spectral_ft.storage import write_text
from spectral_ft.types import MatrixShape, MatrixSpectrum, SpectralReport

NAMED = "snr_results_"
_INSIDE = re.compile(r"\.(?P<block>\d+)\.(?P<leaf>.+)$")


def read_scan(path: Path) -> SpectralReport:
    """A published scan as a report.

    What is in no block (lm_head, embeddings, the last norm) and every norm is left out, as no policy
    may adapt it.

    Args:
        path: A file in one of the two forms.

    Returns:
        One row a matrix, without shape and singular values, with the column `snr`: infinite where
        the scan says so, null where it has no number.

    Raises:
        CheckpointError: If the file is neither form, or has no matrix of a block.
    """
    try:
        entries = _entries(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is no scan of Spectrum: {error!r}. It must be JSON that maps matrices to their snr and type, "
            "or types to matrices."
        ) from error
    found = []
    for name, value in entries.items():
        inside = _INSIDE.search(name)
        if inside is None or re.search(r"norm|ln_|layernorm", inside["leaf"]):
            continue
        shape = MatrixShape(name=name, type=_leaf(inside), side="unknown", block=int(inside["block"]), shape=None)
        reasons = {"snr": "the scan has no number"} if math.isnan(value) else {}
        found.append(MatrixSpectrum(shape, None, {"snr": None if reasons else value}, reasons))
    leaves = {spectrum.matrix.type for spectrum in found}
    found = [
        replace(spectrum, matrix=replace(spectrum.matrix, type=_short(spectrum.matrix.type, leaves)))
        for spectrum in found
    ]
    if not found:
        raise CheckpointError(f"{path} has no matrix of a block among its {len(entries)} entries.")
    return SpectralReport(
        model=path.stem.removeprefix(NAMED),
        fingerprint="",
        settings={"scan": path.name},
        matrices=tuple(sorted(found, key=lambda spectrum: (spectrum.matrix.block, spectrum.matrix.name))),
    )


def write_scan(path: Path, report: SpectralReport) -> None:
    """Write a report in Spectrum's present form, in which an undefined ratio is `NaN`.

    Args:
        path: File.
        report: With the column `snr`.
    """
    entries = {}
    for spectrum in report.matrices:
        name, value = spectrum.matrix.name, spectrum.columns["snr"]
        inside = _INSIDE.search(name)
        kind = inside["leaf"] if inside else spectrum.matrix.type
        entries[name] = {"snr": math.nan if value is None else value, "type": kind}
    write_text(path, json.dumps(entries, indent=4) + "\n")


def write_unfrozen(path: Path, names: set[str], report: SpectralReport, *, embeddings: bool) -> None:
    """Write the matrices that are to be trained as Axolotl's `unfrozen_parameters`.

    Each is a regular expression that matches the whole name of one parameter.

    Args:
        path: File.
        names: Of the matrices.
        report: Of the model, whose order is kept.
        embeddings: Add `lm_head` and `model.embed_tokens`, as Spectrum's script always does.
    """
    lines = ["unfrozen_parameters:"]
    if embeddings:
        lines += [r"- ^lm_head\.weight$", r"- ^model\.embed_tokens\.weight$"]
    by_type: dict[str, list[str]] = {}
    for spectrum in report.matrices:
        if spectrum.matrix.name in names:
            by_type.setdefault(spectrum.matrix.type, []).append(spectrum.matrix.name)
    for kind, members in sorted(by_type.items()):
        lines += [f"# {kind}", *(rf"- ^{re.escape(name)}\.weight$" for name in members)]
    write_text(path, "\n".join(lines) + "\n")


def _leaf(inside: re.Match[str]) -> str:
    # The path inside a block, without the numbers of experts.
    return re.sub(r"\.\d+(?=\.)", "", inside["leaf"])


def _short(leaf: str, leaves: set[str]) -> str:
    # The shortest end of a path that no other has.
    parts = leaf.split(".")
    ends = (".".join(parts[-length:]) for length in range(1, len(parts)))
    return next((end for end in ends if sum(f".{other}".endswith(f".{end}") for other in leaves) == 1), leaf)


def _entries(content: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, inner in content.items():
        if set(inner) == {"snr", "type"}:
            found[key] = float(inner["snr"])
        else:
            found |= {name: float(value) for name, value in inner.items()}
    return found
