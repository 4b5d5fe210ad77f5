"""What a file holds, as a short string; remembered by size and modification time."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from spectral_ft.errors import ConfigError
from spectral_ft.storage import write_json

REMEMBERED_FROM = 1 << 20  # bytes; smaller files are hashed faster than they are looked up
CHUNK = 1 << 24
DIGEST_BYTES = 16


def cache_home() -> Path:
    """The folder that runs share: `$SPECTRAL_FT_CACHE`, or `~/.cache/spectral_ft`.

    Returns:
        The folder, which may not exist yet.
    """
    return Path(os.environ.get("SPECTRAL_FT_CACHE", "~/.cache/spectral_ft")).expanduser().absolute()


def text_fingerprint(text: str) -> str:
    """Digest of a text.

    Args:
        text: The text.

    Returns:
        32 hexadecimal digits.
    """
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest()


def file_fingerprint(path: Path) -> str:
    """Digest of a file's content.

    Args:
        path: The file.

    Returns:
        32 hexadecimal digits.
    """
    path = path.resolve()
    stat = path.stat()
    if stat.st_size < REMEMBERED_FROM:
        return hashlib.blake2b(path.read_bytes(), digest_size=DIGEST_BYTES).hexdigest()
    memo = cache_home() / "fingerprints" / f"{text_fingerprint(str(path))}.json"
    seen = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    try:
        known = json.loads(memo.read_text())
        if {key: known[key] for key in seen} == seen:
            return str(known["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # unknown or damaged: hash again
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    with suppress(OSError):  # a memory that cannot be written is no memory, and no fault
        write_json(memo, {**seen, "digest": digest.hexdigest()})
    return digest.hexdigest()


def path_fingerprint(path: Path, *, suffixes: tuple[str, ...] | None = None) -> str:
    """Digest of a file, or of all files below a folder with their names; hidden ones are left out.

    Args:
        path: File or folder.
        suffixes: Take only files that end so; None takes all.

    Returns:
        32 hexadecimal digits.

    Raises:
        ConfigError: If there is nothing at that path.
    """
    if path.is_file():
        return file_fingerprint(path)
    if not path.is_dir():
        raise ConfigError(f"{path} does not exist.")
    lines = [
        f"{file.relative_to(path)} {file_fingerprint(file)}"
        for file in sorted(path.rglob("*"))
        if file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and (suffixes is None or file.name.endswith(suffixes))
    ]
    return text_fingerprint("\n".join(lines))
