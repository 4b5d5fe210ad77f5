"""`python -m spectral_ft.export run=DIR to=[merged,peft,pth,axolotl]`: a finished run as what other tools read.

Leaves the forms and `export.json` in DIR/export, or in `out`. The options are no experiment, so Hydra has no part
in it; a run's identity, such as 123456789012, must stay a name, so YAML has none either.
"""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from spectral_ft.errors import ConfigError, SpectralFTError
from spectral_ft.spelling import printable

if TYPE_CHECKING:
    from spectral_ft.adapters.merging import Difference
    from spectral_ft.stages.export import Export

USAGE = """usage: python -m spectral_ft.export run=DIR to=[FORM,...] [out=DIR] [own_code=MODULE] [OPTION=VALUE]

  run=DIR   the folder of a run that is finished, or was cut after its training
  to=FORM   one form, or several in brackets:
              merged   the whole model with what was trained in its weights: opens with transformers alone
              peft     the adapter as PEFT opens it
              pth      the state dict of the merged model, for torch.load(weights_only=True)
              axolotl  the adapted matrices as Axolotl's unfrozen_parameters
  out=DIR   where to put them; default: export in the run's folder
  own_code=MODULE          a module of your own that the run's record may name, or several in brackets; without it
                           a record can name only components of spectral_ft
  trust_remote_code=true   run code that comes with the checkpoint; a record cannot ask for it

A merged model is in the precision in which the base was loaded, never in 4 bits. export.json and the table tell
how far its logits are from those of the adapter, each as the largest difference of a logit and as the share of
their norm."""

KEYS = ("run", "to", "out", "own_code", "trust_remote_code")


class Options(NamedTuple):
    """What the command line says."""

    run: Path
    to: tuple[str, ...]
    out: Path
    own_code: tuple[str, ...] = ()
    trust_remote_code: bool = False


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line.

    Args:
        arguments: `KEY=VALUE` each.

    Returns:
        The options.

    Raises:
        ConfigError: If one is unknown, missing, empty or given twice, or a form is unknown.
    """
    from spectral_ft.spelling import nearest
    from spectral_ft.stages.export import FORMS

    found: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise ConfigError(f"{argument} is no option: write {' or '.join(f'{known}=...' for known in KEYS)}.")
        if key not in KEYS:
            raise ConfigError(f"{key} is no option.{nearest(key, list(KEYS))} There is {', '.join(KEYS)}.")
        if key in found:
            raise ConfigError(f"{key} is given twice, as {found[key]} and as {value}.")
        if not value.strip("[], "):
            raise ConfigError(f"{key}= is empty.")
        found[key] = value
    for key in ("run", "to"):
        if key not in found:
            raise ConfigError(f"{key}= is missing: give run=DIR and to=[{','.join(FORMS)}].")
    forms = _several(found["to"])
    for form in forms:
        if form not in FORMS:
            raise ConfigError(f"to={form} is no form.{nearest(form, list(FORMS))} There is {', '.join(FORMS)}.")
    run = Path(found["run"]).expanduser()
    out = Path(found["out"]).expanduser() if "out" in found else run / "export"
    if out.exists() and not out.is_dir():
        raise ConfigError(f"out={out} is a file: give a folder.")
    if (trusted := found.get("trust_remote_code", "false")) not in {"true", "false"}:
        raise ConfigError(f"trust_remote_code={trusted} is neither true nor false.")
    return Options(run, forms, out, _several(found.get("own_code", "")), trusted == "true")


def job(options: Options) -> None:
    """One export.

    Args:
        options: Of the command line.
    """
    from spectral_ft.compose import recorded_experiment
    from spectral_ft.stages.export import export
    from spectral_ft.stages.recorded_run import read_record

    recorded = read_record(options.run)
    experiment = recorded_experiment(
        recorded.config, own_code=options.own_code, trust_remote_code=options.trust_remote_code
    )
    report = export(experiment, recorded, options.run, forms=options.to, out=options.out)
    print(export_table(report, options))


def export_table(report: "Export", options: Options) -> str:
    """What was written, for a terminal.

    Args:
        report: What is there.
        options: Of the command line.

    Returns:
        A line a form that was asked for: form, size, differences, path.
    """
    rows = [("form", "MiB", "from the adapter", "from it on the packed base", "path")]
    for form in options.to:
        written = report.forms[form]
        rows.append((
            form,
            f"{written.bytes / 2**20:.1f}",
            _said(written.difference),
            _said(written.difference_from_packed),
            str(options.out / written.path),
        ))
    kept = [column for column in zip(*rows, strict=True) if set(column[1:]) != {""}]
    widths = [max(map(len, column)) for column in kept]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*kept, strict=True)
    )


def main() -> None:
    """The command."""
    from spectral_ft.entry import FULL_DISK, QUIET, show_any_text

    show_any_text()

    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(USAGE)
        return
    warnings.filterwarnings("ignore", category=FutureWarning, module="(transformers|peft|torch)")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of GPU kernels that a CPU never has
    try:
        job(parse(sys.argv[1:]))
    except KeyboardInterrupt:
        print("\ninterrupted; the same command begins again", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not isinstance(error, SpectralFTError | OSError) and not any(mark in str(error) for mark in FULL_DISK):
            raise
        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(1)


def _several(given: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part for each in given.strip("[]").split(",") if (part := each.strip())))


def _said(apart: "Difference | None") -> str:
    return "" if apart is None else f"{apart.largest:.1e}, {apart.relative:.1e}"


if __name__ == "__main__":
    main()
