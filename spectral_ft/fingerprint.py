"""What a file holds, as a short string; remembered for large files.

A remembered digest counts while size, times and inode of the file are the same and a sample of its content is. So a
file that was replaced in place (`cp -p`, a layer of an image, a rename) is read again.

Known gap: damage between the sampled places that leaves no trace in the file system is not noticed.
`forget_fingerprints` (the option `verify=true`) has every file read as a whole again.
"""

import hashlib
import os
import shutil
from contextlib import suppress
from functools import cache
from pathlib import Path

from spectral_ft.errors import ConfigError, Damaged
from spectral_ft.storage import DIGEST_BYTES, file_digest, read_sealed, text_digest, write_sealed

REMEMBERED_FROM = 1 << 20  # bytes; smaller files are hashed faster than they are looked up
SAMPLES, SAMPLE_BYTES = 64, 4096
"""Places of a file that are read on each use, evenly from its beginning to its end, and how much of each."""


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
    return text_digest(text)


def file_fingerprint(path: Path) -> str:
    """Digest of a file's content.

    Args:
        path: The file.

    Returns:
        32 hexadecimal digits.
    """
    path = path.resolve()
    if path.stat().st_size < REMEMBERED_FROM:
        return file_digest(path)
    memo = _memos() / f"{text_digest(str(path))}.json"
    seen = _seen(path)
    with suppress(OSError, Damaged):  # unknown or damaged: hash again
        known = read_sealed(memo, dict[str, str | int])
        if {key: known.get(key) for key in seen} == seen:
            return str(known["content"])
    content = file_digest(path)
    if _seen(path) == seen:  # otherwise somebody is writing it
        with suppress(OSError):  # a memory that cannot be written is no memory, and no fault
            write_sealed(memo, {**seen, "content": content}, durable=False)
    return content


@cache
def forget_fingerprints() -> None:
    """Forget what is remembered of files, once a process: each is read as a whole when it is used next."""
    shutil.rmtree(_memos(), ignore_errors=True)


def _memos() -> Path:
    return cache_home() / "fingerprints"


def _seen(path: Path) -> dict[str, str | int]:
    # What a file looks like from outside, and a sample of its content.
    stat = path.stat()
    sample = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with path.open("rb") as file:
        for place in range(SAMPLES):
            file.seek((stat.st_size - SAMPLE_BYTES) * place // (SAMPLES - 1))
            sample.update(file.read(SAMPLE_BYTES))
    return {
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,
        "inode": stat.st_ino,
        "sample": sample.hexdigest(),
    }


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
