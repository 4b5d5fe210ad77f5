"""What a CPU or an old GPU cannot do well; oracles: times by hand, devices that bitsandbytes names."""

import time

import pytest
import torch

from spectral_ft.errors import ConfigError
from spectral_ft.models import loading, slow_dtype
from spectral_ft.models.loading import load_model
from spectral_ft.models.quantization import Nf4, Unquantized, check_supported
from tests.conftest import EMBEDDED


def test_the_slowdown_is_a_ratio_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 9.0, 10.0, 16.0, 20.0, 27.0, 0.0, 2.0, 10.0, 13.0, 20.0, 25.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    assert slow_dtype.slowdown(torch.bfloat16) == 6.0 / 2.0


@pytest.mark.parametrize(("factor", "told"), [(37.4, True), (1.2, False), (0.3, False)])
def test_a_slow_dtype_is_warned_of_with_its_factor(
    factor: float, told: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loading, "slowdown", lambda dtype: factor)
    load_model(EMBEDDED, quantization=Unquantized(), dtype="bfloat16", trust_remote_code=False)
    assert ("bfloat16 products take 37 times as long as float32 on this CPU (measured)" in caplog.text) == told


def test_a_device_without_support_for_packed_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_supported(torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"bitsandbytes cannot pack weights on meta, only on cpu, cuda"):
        check_supported(torch.device("meta"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (5, 2))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GTX 980")
    with pytest.raises(ConfigError, match=r"GTX 980 has compute capability 5\.2, and packed weights need 6\.0: "):
        check_supported(torch.device("cuda"))


def test_loading_asks_for_support(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "compute_device", lambda: torch.device("meta"))
    with pytest.raises(ConfigError, match=r"cannot pack weights on meta"):
        load_model(EMBEDDED, quantization=Nf4(True), dtype="float32", trust_remote_code=False)
