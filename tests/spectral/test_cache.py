"""Oracle: what was stored comes back, and what was damaged after storing does not."""

import numpy as np
import pytest

from spectral_ft.spectral.cache import SpectrumCache
from spectral_ft.spectral.decomposition import Decomposition

S = np.array([3.0, 2.0, 1.0])


def found(values, *, precision="float64"):
    return Decomposition(np.array(values, dtype=np.float64), mean=0.25, std=1.5, precision=precision)


@pytest.fixture
def cache(tmp_path):
    return SpectrumCache(tmp_path, "checkpoint")


@pytest.fixture
def stored(cache, tmp_path):
    cache.store("w", found(S))
    return next(tmp_path.rglob("*.npz"))


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_values_moments_and_precision_come_back_bit_for_bit(cache, precision):
    s = np.random.default_rng(0).random(50)
    s[::-1].sort()
    cache.store("model.layers.0.q_proj", Decomposition(s, mean=0.1, std=1 / 3, precision=precision))
    back = cache.load("model.layers.0.q_proj", 50)
    assert back.singular_values.dtype == np.float64
    np.testing.assert_array_equal(back.singular_values, s)
    assert (back.mean, back.std, back.precision) == (0.1, 1 / 3, precision)


def test_what_was_not_stored_is_none(cache):
    assert cache.load("w", 3) is None


def test_another_checkpoint_has_its_own_values(stored, tmp_path):
    assert SpectrumCache(tmp_path, "other").load("w", 3) is None


def test_another_precision_has_its_own_values(stored, tmp_path):
    assert SpectrumCache(tmp_path, "checkpoint", "float32").load("w", 3) is None
    assert SpectrumCache(tmp_path, "checkpoint", "float64").load("w", 3) is not None


def test_the_lock_lies_beside_the_values(cache, stored):
    assert cache.lock_file.parent == stored.parent


@pytest.mark.parametrize(
    "values", [[2.0, 1.0], [1.0, 2.0, 3.0], [2.0, 1.0, -1.0], [np.nan, 2.0, 1.0], [np.inf, 2.0, 1.0]]
)
def test_values_that_cannot_be_are_removed_with_a_warning(cache, tmp_path, caplog, values):
    cache.store("w", found(values))
    assert cache.load("w", 3) is None
    assert "cache entry of w is damaged" in caplog.text
    assert not list(tmp_path.rglob("*.npz"))


def test_values_of_another_precision_than_there_is_are_removed(cache, tmp_path):
    cache.store("w", found(S, precision="float16"))
    assert cache.load("w", 3) is None
    assert not list(tmp_path.rglob("*.npz"))


@pytest.mark.parametrize("kept", [("singular_values",), ("singular_values", "moments"), ("moments", "precision")])
def test_an_entry_that_lacks_a_part_is_removed(cache, stored, kept):
    with np.load(stored) as whole:
        parts = {name: whole[name] for name in kept}
    with stored.open("wb") as file:
        np.savez(file, **parts)
    assert cache.load("w", 3) is None
    assert not stored.exists()


def test_a_file_cut_anywhere_is_removed(cache, stored):
    whole = stored.read_bytes()
    for length in range(0, len(whole), 3):
        stored.write_bytes(whole[:length])
        assert cache.load("w", 3) is None
        assert not stored.exists()


def flip(stored, at):
    damaged = bytearray(stored.read_bytes())
    damaged[at] ^= 1
    stored.write_bytes(damaged)


def test_a_flipped_bit_in_the_values_is_noticed(cache, stored):
    flip(stored, stored.read_bytes().index(S.tobytes()) + 9)
    assert cache.load("w", 3) is None


def test_a_flipped_bit_in_the_moments_is_noticed(cache, stored):
    flip(stored, stored.read_bytes().index(np.array([0.25, 1.5]).tobytes()) + 3)
    assert cache.load("w", 3) is None


def test_a_flipped_bit_in_the_directory_is_noticed(cache, stored):
    flip(stored, stored.read_bytes().index(b"PK\x01\x02") + 10)  # the compression method
    assert cache.load("w", 3) is None
