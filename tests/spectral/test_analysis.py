"""Oracle: diagonal matrices with typed singular values, and a count of what was read."""

import filelock
import numpy as np
import pytest

from spectral_ft.errors import CheckpointError
from spectral_ft.spectral.analysis import analyse
from spectral_ft.spectral.cache import SpectrumCache
from tests.oracles import matrix

VALUES = {"0.a": [5.0, 1.0], "0.b": [4.0, 3.0, 2.0], "1.a": [7.0, 6.0]}
MATRICES = [matrix(name, (len(values), len(values))) for name, values in VALUES.items()]


class Reader:
    """Reads diagonal matrices and remembers which."""

    def __init__(self, **overrides):
        self.read = []
        self._values = VALUES | overrides

    def __call__(self, wanted):
        name = wanted.name.removeprefix("model.layers.")
        self.read.append(name)
        return np.diag(self._values[name])


@pytest.fixture
def cache(tmp_path):
    return SpectrumCache(tmp_path, "checkpoint")


@pytest.mark.parametrize("workers", [1, 3])
def test_spectra_come_in_the_order_given(workers):
    spectra, computed = analyse(MATRICES, Reader(), cache=None, workers=workers)
    assert computed == 3
    assert [spectrum.matrix for spectrum in spectra] == MATRICES
    for spectrum, values in zip(spectra, VALUES.values(), strict=True):
        np.testing.assert_allclose(spectrum.singular_values, values)


def test_columns_and_reasons_belong_to_the_matrix():
    (spectrum,), _ = analyse(MATRICES[1:2], Reader(), cache=None, workers=1)
    assert spectrum.columns["spectral_norm"] == pytest.approx(4)
    assert spectrum.columns["alpha_hill"] is None
    assert spectrum.reasons["alpha_hill"] == "3 nonzero eigenvalues, fewer than 50"


def test_the_largest_matrix_is_read_first():
    reader = Reader()
    analyse(MATRICES, reader, cache=None, workers=1)
    assert reader.read[0] == "0.b"


def test_a_second_call_reads_nothing_and_finds_the_same(cache):
    first, _ = analyse(MATRICES, Reader(), cache=cache, workers=2)
    reader = Reader()
    second, computed = analyse(MATRICES, reader, cache=cache, workers=2)
    assert (computed, reader.read) == (0, [])
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.singular_values, other.singular_values)
        assert one.columns == other.columns


def test_only_what_is_missing_is_read(cache):
    analyse(MATRICES[:2], Reader(), cache=cache, workers=1)
    reader = Reader()
    _, computed = analyse(MATRICES, reader, cache=cache, workers=1)
    assert (computed, reader.read) == (1, ["1.a"])


def test_a_damaged_matrix_is_named_and_the_others_are_kept(cache):
    broken = Reader(**{"0.b": [4.0, np.nan, 2.0]})
    with pytest.raises(CheckpointError, match=r"model\.layers\.0\.b\.weight cannot be analysed: 1 of 9 entries"):
        analyse(MATRICES, broken, cache=cache, workers=1)
    reader = Reader()
    analyse(MATRICES, reader, cache=cache, workers=1)
    assert reader.read == ["0.b"]


def test_the_cache_is_locked_while_matrices_are_read(cache):
    class Locked(Reader):
        def __call__(self, wanted):
            with pytest.raises(filelock.Timeout):
                filelock.FileLock(cache.lock_file).acquire(timeout=0)
            return super().__call__(wanted)

    reader = Locked()
    analyse(MATRICES, reader, cache=cache, workers=1)
    assert len(reader.read) == 3
