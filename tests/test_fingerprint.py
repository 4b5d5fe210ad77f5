"""Oracle: equal content has equal digests, different content has not, and the memory is told by files that lie."""

import hashlib
import json
import os

import pytest

from spectral_ft import fingerprint
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
    monkeypatch.setattr(fingerprint, "CHUNK", 1000)
    assert file_fingerprint(big) == blake2b(b"a" * (BIG + 1))


def test_a_small_file_is_not_remembered(tmp_path, home):
    (tmp_path / "a").write_bytes(b"content")
    file_fingerprint(tmp_path / "a")
    assert not home.exists()


def test_a_big_file_of_unchanged_size_and_time_is_not_read_again(big):
    before = file_fingerprint(big)
    stat = big.stat()
    big.write_bytes(b"b" * (BIG + 1))
    os.utime(big, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file_fingerprint(big) == before


@pytest.mark.parametrize(("size", "later"), [(BIG + 2, 0), (BIG + 1, 1)], ids=["size", "time"])
def test_a_big_file_of_another_size_or_time_is_read_again(big, size, later):
    file_fingerprint(big)
    stat = big.stat()
    big.write_bytes(b"b" * size)
    os.utime(big, ns=(stat.st_atime_ns, stat.st_mtime_ns + later))
    assert file_fingerprint(big) == blake2b(b"b" * size)


@pytest.mark.parametrize("memo", ["", "[]", "{}", '{"size": 1'])
def test_a_damaged_memory_is_made_again(big, home, memo):
    file_fingerprint(big)
    (path,) = home.rglob("*.json")
    path.write_text(memo)
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
