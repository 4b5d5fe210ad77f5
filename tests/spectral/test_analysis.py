"""Oracle: diagonal matrices with typed singular values, and a count of what was read and when."""

import threading
import time

import filelock
import numpy as np
import pytest

from spectral_ft.errors import CheckpointError
from spectral_ft.spectral.analysis import Analysis, analyse
from spectral_ft.spectral.cache import SpectrumCache
from spectral_ft.spectral.decomposition import decompose, with_lapack, working_bytes
from spectral_ft.spectral.metrics import COLUMNS, MetricOptions, metric_columns
from tests.oracles import gaussian, matrix

VALUES = {"0.a": [5.0, 1.0], "0.b": [4.0, 3.0, 2.0], "1.a": [7.0, 6.0]}
MATRICES = [matrix(name, (len(values), len(values))) for name, values in VALUES.items()]
ONE = Analysis()


class Reader:
    """Reads diagonal matrices and remembers which."""

    def __init__(self, **overrides):
        self.read = []
        self._values = VALUES | overrides

    def __call__(self, wanted):
        name = wanted.name.removeprefix("model.layers.")
        self.read.append(name)
        if isinstance(self._values[name], Exception):
            raise self._values[name]
        return np.diag(self._values[name])


class Counting:
    """A solver that counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, weights, *, scale, dtype):
        self.calls += 1
        return with_lapack(weights, scale=scale, dtype=dtype)


@pytest.fixture
def cache(tmp_path):
    return SpectrumCache(tmp_path, "checkpoint")


@pytest.mark.parametrize("workers", [1, 3])
def test_spectra_come_in_the_order_given(workers):
    spectra, computed = analyse(MATRICES, Reader(), cache=None, how=Analysis(workers=workers))
    assert computed == 3
    assert [spectrum.matrix for spectrum in spectra] == MATRICES
    for spectrum, values in zip(spectra, VALUES.values(), strict=True):
        np.testing.assert_allclose(spectrum.singular_values, values)
        assert spectrum.fault is None


def test_columns_and_reasons_belong_to_the_matrix():
    (spectrum,), _ = analyse(MATRICES[1:2], Reader(), cache=None, how=ONE)
    assert spectrum.columns["spectral_norm"] == pytest.approx(4)
    assert spectrum.columns["alpha_hill"] is None
    assert spectrum.reasons["alpha_hill"] == "3 nonzero eigenvalues, fewer than 50"
    assert tuple(spectrum.columns) == COLUMNS


def test_the_largest_matrix_is_read_first():
    reader = Reader()
    analyse(MATRICES, reader, cache=None, how=ONE)
    assert reader.read[0] == "0.b"


def test_a_second_call_reads_nothing_and_finds_the_same(cache):
    how = Analysis(workers=2)
    first, _ = analyse(MATRICES, Reader(), cache=cache, how=how)
    reader = Reader()
    second, computed = analyse(MATRICES, reader, cache=cache, how=how)
    assert (computed, reader.read) == (0, [])
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.singular_values, other.singular_values)
        assert (one.columns, one.reasons) == (other.columns, other.reasons)


def test_only_what_is_missing_is_read(cache):
    analyse(MATRICES[:2], Reader(), cache=cache, how=ONE)
    reader = Reader()
    _, computed = analyse(MATRICES, reader, cache=cache, how=ONE)
    assert (computed, reader.read) == (1, ["1.a"])


DAMAGE = {
    "not finite": ([4.0, np.nan, 2.0], "model.layers.0.b.weight cannot be analysed: 1 of 9 entries"),
    "infinite": ([4.0, np.inf, 2.0], "model.layers.0.b.weight cannot be analysed: 1 of 9 entries"),
    "unreadable": (CheckpointError("b ends too early."), "model.layers.0.b cannot be analysed: b ends too early."),
}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_matrix_has_a_fault_and_the_others_their_values(cache, damage, workers):
    value, sentence = DAMAGE[damage]
    (one, broken, other), _ = analyse(MATRICES, Reader(**{"0.b": value}), cache=cache, how=Analysis(workers=workers))
    assert broken.fault.startswith(sentence)
    assert broken.singular_values is None
    assert broken.columns == dict.fromkeys(COLUMNS)
    assert broken.reasons == dict.fromkeys(COLUMNS, "no spectrum")
    for spectrum, values in ((one, [5, 1]), (other, [7, 6])):
        assert spectrum.fault is None
        np.testing.assert_allclose(spectrum.singular_values, values)
    reader = Reader()
    (_, repaired, _), _ = analyse(MATRICES, reader, cache=cache, how=ONE)
    assert reader.read == ["0.b"]
    assert repaired.fault is None


def test_a_file_that_the_system_refuses_is_a_fault_too():
    spectra, _ = analyse(MATRICES, Reader(**{"0.b": PermissionError(13, "denied", "x")}), cache=None, how=ONE)
    assert [spectrum.fault is None for spectrum in spectra] == [True, False, True]


def test_where_no_matrix_can_be_analysed_that_is_an_error():
    reader = Reader(**{name: CheckpointError("gone.") for name in VALUES})
    with pytest.raises(CheckpointError, match=r"^model\.layers\.0\.a cannot be analysed: gone\."):
        analyse(MATRICES, reader, cache=None, how=ONE)


def test_the_cache_is_locked_while_matrices_are_read(cache):
    class Locked(Reader):
        def __call__(self, wanted):
            with pytest.raises(filelock.Timeout):
                filelock.FileLock(cache.lock_file).acquire(timeout=0)
            return super().__call__(wanted)

    reader = Locked()
    analyse(MATRICES, reader, cache=cache, how=ONE)
    assert len(reader.read) == 3


RANDOM = [matrix(f"{block}.q_proj", (6, 9)) for block in range(3)]


def random_entries(wanted):
    return gaussian(6, 9, seed=wanted.block)


def counted(cache, draws, *, read=random_entries, matrices=RANDOM):
    solver = Counting()
    spectra, computed = analyse(matrices, read, cache=cache, how=Analysis(null_draws=draws, solver=solver))
    return spectra, computed, solver.calls


def test_draws_are_computed_once(cache):
    assert counted(cache, 2)[1:] == (3, 9)  # each matrix, and two shuffles of it
    assert counted(cache, 2)[1:] == (0, 0)
    assert counted(cache, 4)[1:] == (3, 6)
    assert counted(cache, 3)[1:] == (0, 0)
    assert counted(cache, 0)[1:] == (0, 0)


def test_draws_after_a_report_without_them_leave_the_matrix_itself_alone(cache):
    assert counted(cache, 0)[1:] == (3, 3)
    assert counted(cache, 2)[1:] == (3, 6)


def test_draws_from_the_cache_give_the_columns_of_fresh_ones(cache, tmp_path):
    counted(cache, 2)
    grown, _, _ = counted(cache, 4)
    fresh, _, _ = counted(SpectrumCache(tmp_path / "other", "checkpoint"), 4)
    assert [spectrum.columns for spectrum in grown] == [spectrum.columns for spectrum in fresh]


@pytest.mark.parametrize(("draws", "ends"), [(2, ("_null", "_excess")), (8, ("_null", "_excess", "_z"))])
def test_each_metric_of_the_spectrum_stands_beside_its_null(draws, ends):
    (spectrum, *_), _, _ = counted(None, draws)
    extra = {f"{name}{end}" for name in COLUMNS if name != "snr_moment" for end in ends}
    assert set(spectrum.columns) == set(COLUMNS) | extra
    assert spectrum.columns["spectral_norm_null"] > 0
    # The entries stay the same, so their sum of squares does.
    assert spectrum.columns["frobenius_norm_null"] == pytest.approx(spectrum.columns["frobenius_norm"])
    assert spectrum.columns["frobenius_norm_excess"] == pytest.approx(0, abs=1e-12)


def test_a_shuffle_hides_a_strong_direction():
    strong = [matrix("0.q_proj", (20, 30))]
    (spectrum,), _, _ = counted(None, 3, matrices=strong, read=lambda _: np.outer(np.arange(1.0, 21), np.ones(30)))
    assert spectrum.columns["stable_rank"] == pytest.approx(1)
    assert spectrum.columns["stable_rank_excess"] < -0.05


def test_without_draws_there_is_no_null():
    (spectrum, *_), _, _ = counted(None, 0)
    assert set(spectrum.columns) == set(COLUMNS)


def test_the_number_of_workers_changes_no_number():
    one, two = (
        analyse(RANDOM, random_entries, cache=None, how=Analysis(workers=workers, null_draws=3))[0]
        for workers in (1, 2)
    )
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.singular_values, b.singular_values)
        assert (a.columns, a.reasons) == (b.columns, b.reasons)


EQUAL = [matrix(f"{block}.q_proj", (40, 60)) for block in range(6)]
NEED = working_bytes((40, 60)) + 8 * 40 * 60


class Crowd:
    """Remembers how many read at a time, and waits for company."""

    def __init__(self):
        self.now = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, wanted):
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.03)
        with self._lock:
            self.now -= 1
        return gaussian(*wanted.shape, seed=wanted.block)


@pytest.mark.parametrize(
    ("memory", "most"),
    [(1, 1), (2 * NEED - 1, 1), (2 * NEED, 2), (3 * NEED - 1, 2), (100 * NEED, 4), (None, 4)],
)
def test_no_more_matrices_are_at_work_than_memory_allows(memory, most):
    crowd = Crowd()
    spectra, _ = analyse(EQUAL, crowd, cache=None, how=Analysis(workers=4, memory=memory))
    assert crowd.most == most
    assert len(spectra) == 6 and all(spectrum.fault is None for spectrum in spectra)


def test_what_is_read_counts_as_stored_and_shuffles_need_it_twice():
    crowd = Crowd()
    how = Analysis(workers=4, null_draws=1, memory=2 * NEED)
    analyse(EQUAL, crowd, cache=None, how=how)
    assert crowd.most == 1
    crowd = Crowd()
    analyse(EQUAL, crowd, cache=None, how=how, stored_bytes=lambda matrix: 4 * 40 * 60)
    assert crowd.most == 2


def test_a_small_matrix_goes_beside_a_big_one_that_leaves_room():
    big, small = matrix("0.big", (500, 500)), matrix("1.small", (10, 10))
    others = [matrix(f"{block}.big", (500, 500)) for block in (2, 3)]
    at_work, together = set(), set()
    lock = threading.Lock()

    def read(wanted):
        with lock:
            at_work.add(wanted.type)
            together.add(frozenset(at_work))
        time.sleep(0.05)
        with lock:
            at_work.discard(wanted.type)
        return np.eye(wanted.shape[0])

    room = sum(working_bytes(m.sides) + 8 * m.sides[0] * m.sides[1] for m in (big, small))
    analyse([big, *others, small], read, cache=None, how=Analysis(workers=2, memory=room))
    assert frozenset({"big", "small"}) in together


def test_a_report_in_float32_is_near_that_in_float64(cache, tmp_path):
    single = SpectrumCache(tmp_path, "checkpoint", "float32")
    near, _ = analyse(EQUAL, Crowd(), cache=single, how=Analysis(precision="float32"))
    exact, _ = analyse(EQUAL, Crowd(), cache=cache, how=ONE)
    for one, other in zip(near, exact, strict=True):
        np.testing.assert_allclose(one.singular_values, other.singular_values, rtol=1e-4)
        assert (one.singular_values != other.singular_values).any()
        assert single.load(one.matrix.name, 40).precision == "float32"


def test_options_reach_the_metrics():
    options = MetricOptions(eigenvalue_threshold=20.0)
    (spectrum, *_), _ = analyse(MATRICES[:1], Reader(), cache=None, how=Analysis(options=options))
    assert spectrum.columns["num_zero"] == 1  # of 25 and 1
    assert metric_columns(decompose(np.diag(VALUES["0.a"])), (2, 2), MetricOptions())[0]["num_zero"] == 0


def test_each_matrix_says_in_which_precision_it_was_computed():
    values = {"0.a": np.linspace(2, 1, 60), "0.b": np.geomspace(1, 1e-4, 60)}
    matrices = [matrix(name, (60, 60)) for name in values]
    how = Analysis(precision="float32")
    spectra, _ = analyse(matrices, Reader(**values), cache=None, how=how)
    assert [spectrum.precision for spectrum in spectra] == ["float32", "float64"]
