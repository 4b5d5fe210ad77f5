"""Adapters that exist already, by the folders that a user names."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from spectral_ft.adapters.origin import check_origin
from spectral_ft.errors import CheckpointError, ConfigError
from spectral_ft.identity import adapter_folder
from spectral_ft.models.checkpoint import Checkpoint


def adapter_folders(
    named: str | Sequence[str] | None, model: str, checkpoint: Checkpoint | None
) -> Mapping[str, Path | None]:
    """What shall be scored, looked at before a base is loaded.

    Args:
        named: Folders of adapters, or of runs that have one; None for the base alone.
        model: What records call the base.
        checkpoint: It, with weights; None does not compare what the adapters were trained on.

    Returns:
        A name that is no other's to the adapter; `base` to None where there is none.

    Raises:
        CheckpointError: If a folder holds no adapter, or that of another base.
        ConfigError: If one is named twice.
    """
    from spectral_ft.adapters.opening import form_of

    if named is None:
        return {"base": None}
    found: dict[str, Path | None] = {}
    for one in [named] if isinstance(named, str) else list(named):
        said = Path(one).expanduser()
        folder = adapter_folder(said)
        if not folder.is_dir():
            raise CheckpointError(f"adapter={one} is no folder: give that of an adapter, or of a finished run.")
        form_of(folder)
        if checkpoint is not None:
            check_origin(folder, model=model, fingerprint=checkpoint.fingerprint)
        if folder in found.values():
            raise ConfigError(f"adapter={one} is named twice: each adapter is scored once.")
        found[_name(said.resolve(), taken=found)] = folder
    return found


def _name(folder: Path, *, taken: Mapping[str, object]) -> str:
    # Runs of a sweep differ in their last part, adapters of runs in the one before: as many parts as it takes.
    parts = [part for part in folder.parts if part != folder.anchor]
    names = ["_".join(parts[-count:]) for count in range(1, len(parts) + 1)]
    return next(name for name in names if name not in taken)
