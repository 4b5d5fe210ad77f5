"""Oracle: equal content has equal digests, different content has not, and the memory is told by files that lie."""

import hashlib
import json
import mmap
import os
from pathlib import Path

import pytest

from spectral_ft import fingerprint, storage
from spectral_ft.errors import ConfigError
from spectral_ft.fingerprint import cache_home, file_fingerprint, path_fingerprint, text_fingerprint

BIG = fingerprint.REMEMBERED_FROM


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SPECTRAL_FT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def big(tmp_path):
    (tmp_path / "big").write_bytes(b"a" * (BIG + 1))
    return tmp_path / "big"


def blake2b(content):
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def test_a_digest_is_blake2b_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    assert file_fingerprint(tmp_path / "a") == text_fingerprint("content") == blake2b(b"content")


def test_a_big_file_has_the_same_digest_in_pieces(big, monkeypatch):
    monkeypatch.setattr(storage, "CHUNK", 1000)
    assert file_fingerprint(big) == blake2b(b"a" * (BIG + 1))


def test_a_small_file_is_not_remembered(tmp_path, home):
    (tmp_path / "a").write_bytes(b"content")
    file_fingerprint(tmp_path / "a")
    assert not home.exists()


@pytest.fixture
def read_whole(monkeypatch):
    """The files that were read from beginning to end."""
    read = []
    whole = fingerprint.file_digest
    monkeypatch.setattr(fingerprint, "file_digest", lambda path: read.append(path) or whole(path))
    return read


def test_a_big_file_that_is_left_alone_is_read_once(big, read_whole):
    assert file_fingerprint(big) == file_fingerprint(big) == blake2b(b"a" * (BIG + 1))
    assert read_whole == [big]


def as_cp_p(path, content):
    """In place, with the times of before."""
    stat = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def as_a_rename(path, content):
    """Another file of that size and time under its name."""
    stat, other = path.stat(), path.with_name("other")
    other.write_bytes(content)
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)


def as_through_a_map(path, content):
    """A block in the middle, by another way of writing."""
    stat = path.stat()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[: len(content)] = content
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("replaced", [as_cp_p, as_a_rename, as_through_a_map])
def test_a_big_file_that_is_replaced_with_one_of_the_same_size_and_time_is_read_again(big, replaced):
    file_fingerprint(big)
    content = b"a" * (BIG // 2) + b"b" + b"a" * (BIG // 2)
    replaced(big, content)
    assert file_fingerprint(big) == blake2b(content)


@pytest.mark.parametrize("place", [0, BIG, BIG // 63 * 20 + 10], ids=["first", "last", "between"])
def test_a_sample_tells_where_the_file_system_does_not(big, place, monkeypatch):
    """As another layer of an image, whose times and inode may be those of the one before."""
    stat = big.stat()
    monkeypatch.setattr(Path, "stat", lambda self, **_: stat)
    file_fingerprint(big)
    content = bytearray(b"a" * (BIG + 1))
    content[place] ^= 1
    big.write_bytes(content)
    assert file_fingerprint(big) == blake2b(content)


def test_nothing_is_remembered_after_forgetting(big, read_whole):
    file_fingerprint(big)
    fingerprint.forget_fingerprints.cache_clear()
    fingerprint.forget_fingerprints()
    file_fingerprint(big)
    assert read_whole == [big, big]


@pytest.mark.parametrize(("size", "later"), [(BIG + 2, 0), (BIG + 1, 1)], ids=["size", "time"])
def test_a_big_file_of_another_size_or_time_is_read_again(big, size, later):
    file_fingerprint(big)
    stat = big.stat()
    big.write_bytes(b"b" * size)
    os.utime(big, ns=(stat.st_atime_ns, stat.st_mtime_ns + later))
    assert file_fingerprint(big) == blake2b(b"b" * size)


def flipped(text):
    """The digest with another digit."""
    place = text.index('"content": "') + len('"content": "')
    return text[:place] + ("0" if text[place] != "0" else "1") + text[place + 1 :]


@pytest.mark.parametrize("damage", [lambda _: "", lambda _: "[]", lambda _: "{}", lambda text: text[:-9], flipped])
def test_a_damaged_memory_is_made_again(big, home, damage):
    file_fingerprint(big)
    (path,) = home.rglob("*.json")
    path.write_text(damage(path.read_text()))
    assert file_fingerprint(big) == blake2b(b"a" * (BIG + 1))
    assert json.loads(path.read_text())["size"] == BIG + 1


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "f" / "inner").mkdir(parents=True)
    (tmp_path / "f" / "a.json").write_text("1")
    (tmp_path / "f" / "inner" / "b.txt").write_text("2")
    return tmp_path / "f"


def test_a_copy_of_a_folder_has_its_digest(folder, tmp_path):
    before = path_fingerprint(folder)
    folder.rename(tmp_path / "elsewhere")
    assert path_fingerprint(tmp_path / "elsewhere") == before


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "a.json").write_text("3"),
        lambda folder: (folder / "inner" / "b.txt").unlink(),
        lambda folder: (folder / "inner" / "b.txt").rename(folder / "b.txt"),
        lambda folder: (folder / "c").touch(),
    ],
    ids=["content", "removed", "moved", "added"],
)
def test_any_change_of_a_folder_changes_its_digest(folder, change):
    before = path_fingerprint(folder)
    change(folder)
    assert path_fingerprint(folder) != before


def test_hidden_files_are_left_out(folder):
    before = path_fingerprint(folder)
    (folder / ".git").mkdir()
    (folder / ".git" / "head").touch()
    (folder / ".DS_Store").touch()
    assert path_fingerprint(folder) == before


def test_other_suffixes_can_be_left_out(folder):
    before = path_fingerprint(folder, suffixes=(".json",))
    (folder / "inner" / "b.txt").write_text("3")
    assert path_fingerprint(folder, suffixes=(".json",)) == before


def test_nothing_at_a_path_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="nowhere does not exist"):
        path_fingerprint(tmp_path / "nowhere")


def test_the_shared_folder_is_in_the_home_unless_said_otherwise(home, tmp_path, monkeypatch):
    assert cache_home() == home
    monkeypatch.delenv("SPECTRAL_FT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_home() == tmp_path / ".cache" / "spectral_ft"
