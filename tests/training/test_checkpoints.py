"""Checkpoints in mid-training; oracles: a marker file, the tensors themselves."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spectral_ft.errors import RunError
from spectral_ft.storage import write_sealed
from spectral_ft.training.checkpoints import (
    COMPLETE,
    NEEDED,
    Origin,
    check_base,
    last_checkpoint,
    mark_whole,
    remove_checkpoints,
    seconds_of,
)
from spectral_ft.training.trained_state import STATE, WEIGHTS, load_trained, save_trained
from tests.conftest import edit_json
from tests.methods.small_bases import METHODS, adapt, frozen, logits, moved, trained

ORIGIN = Origin("0123abcd", "f" * 32, {"torch": "2.13.0", "peft": "0.21.2"}, "c" * 32, "1a2b", 1)


def checkpoint(folder: Path, step: int, *, whole: bool) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in (*NEEDED, "rng_state.pth"):
        (path / name).write_bytes(b"x")
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    if whole:
        mark_whole(path, step=step, seconds=2.5, origin=ORIGIN)
    return path


def test_the_newest_whole_checkpoint_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint(tmp_path, 90, whole=True)
    expected = checkpoint(tmp_path, 100, whole=True)
    cut = [checkpoint(tmp_path, step, whole=False) for step in (999, 1000)]
    assert last_checkpoint(tmp_path, ORIGIN) == expected
    assert not any(path.exists() for path in cut)
    assert "checkpoint-1000 was cut while it was written; taking the one before it" in caplog.text
    assert (tmp_path / "checkpoint-90").is_dir()


@pytest.mark.parametrize(("then", "now"), [("packed", "dequantize_once"), ("dequantize_once", "packed")])
def test_a_base_that_is_held_in_another_way_than_before_is_refused(then: str, now: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 4, whole=False)
    mark_whole(path, step=4, seconds=1.0, origin=replace(ORIGIN, on_cpu=then))
    with pytest.raises(RunError, match=f"set quantization.on_cpu={then}"):
        check_base(path, replace(ORIGIN, on_cpu=now))
    for same in (then, None):  # None: on a GPU
        check_base(path, replace(ORIGIN, on_cpu=same))


def test_a_copy_of_a_checkpoint_is_left_alone(tmp_path: Path) -> None:
    expected = checkpoint(tmp_path, 90, whole=True)
    copies = [tmp_path / f"checkpoint-{name}" for name in ("100 copy", "100.bak", "last", "-5")]
    for copy in copies:
        copy.mkdir()
    assert last_checkpoint(tmp_path, ORIGIN) == expected
    assert all(copy.is_dir() for copy in copies)


@pytest.mark.parametrize("missing", [*NEEDED, "rng_state.pth"])
def test_a_checkpoint_that_would_go_on_as_another_training_is_not_whole(
    missing: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It was marked as whole all the same, as the Trainer leaves it under save_only_model."""
    before, lacking = checkpoint(tmp_path, 3, whole=True), checkpoint(tmp_path, 6, whole=False)
    (lacking / missing).unlink()
    mark_whole(lacking, step=6, seconds=1.0, origin=ORIGIN)
    assert last_checkpoint(tmp_path, ORIGIN) == before
    assert f"checkpoint-6 lacks {missing}; taking the one before it" in caplog.text


def test_each_process_has_a_random_state(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    of_two, path = replace(ORIGIN, processes=2), checkpoint(tmp_path, 6, whole=False)
    for index in range(2):
        (path / f"rng_state_{index}.pth").write_bytes(b"x")
    mark_whole(path, step=6, seconds=1.0, origin=of_two)
    assert last_checkpoint(tmp_path, of_two) == path
    (path / "rng_state_1.pth").unlink()
    mark_whole(path, step=6, seconds=1.0, origin=of_two)
    assert last_checkpoint(tmp_path, of_two) is None
    assert "checkpoint-6 lacks rng_state_1.pth; training from the start" in caplog.text


def test_no_checkpoint_is_no_fault(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path, ORIGIN) is None
    assert last_checkpoint(tmp_path / "nowhere", ORIGIN) is None
    checkpoint(tmp_path, 7, whole=False)
    assert last_checkpoint(tmp_path, ORIGIN) is None


def test_the_time_so_far_is_kept(tmp_path: Path) -> None:
    assert seconds_of(checkpoint(tmp_path, 3, whole=True)) == 2.5
    assert seconds_of(None) == 0.0


def test_checkpoints_are_removed_and_nothing_else_is(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoints", 3, whole=True)
    (tmp_path / "adapter").mkdir()
    remove_checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    remove_checkpoints(tmp_path)


def sealed_step(path: Path, step: int) -> None:
    """As if it had been written so, and not edited."""
    told = json.loads((path / COMPLETE).read_text())
    write_sealed(path / COMPLETE, {**told, "step": step})


def renamed(path: Path, step: int) -> None:
    path.rename(path.with_name(f"checkpoint-{step}"))


LIES: dict[str, Callable[[Path], None]] = {
    "a later step": lambda path: edit_json(path / COMPLETE, step=9),
    "more seconds": lambda path: edit_json(path / COMPLETE, seconds=9.5),
    "another run": lambda path: edit_json(path / COMPLETE, origin={"run_id": "beef"}),
    "no files": lambda path: edit_json(path / COMPLETE, files={}),
    "another key": lambda path: (path / COMPLETE).write_text((path / COMPLETE).read_text().replace("digest", "digesu")),
    "a later step, sealed": lambda path: sealed_step(path, 9),
    "a later step of the Trainer": lambda path: edit_json(path / "trainer_state.json", global_step=9),
    "another name": lambda path: renamed(path, 9),
}


@pytest.mark.parametrize("lie", LIES)
def test_nothing_that_a_checkpoint_says_of_itself_is_believed(
    lie: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, path = checkpoint(tmp_path, 3, whole=True), checkpoint(tmp_path, 6, whole=True)
    LIES[lie](path)
    assert last_checkpoint(tmp_path, ORIGIN) == before
    assert "taking the one before it" in caplog.text and not path.exists()


@pytest.mark.parametrize("name", METHODS)
def test_what_was_trained_loads_bitwise(name: str, tmp_path: Path) -> None:
    model = adapt(name, frozen("llama")).model
    moved(model)
    state = {"tensors": {"a": torch.arange(3.0)}, "ranks": {"b": [True, False]}, "none": None}
    save_trained(model, state, tmp_path / "new")
    assert set(load_file(tmp_path / "new" / WEIGHTS)) == set(trained(model))  # and no copy of the base
    again = adapt(name, frozen("llama")).model
    kept = load_trained(again, tmp_path / "new")
    assert torch.equal(kept["tensors"].pop("a"), state["tensors"].pop("a"))  # type: ignore[index, union-attr]
    assert kept == state
    for key, parameter in model.named_parameters():
        assert torch.equal(again.get_parameter(key), parameter), key
    assert torch.equal(logits(again.eval()), logits(model))
    assert set(trained(again)) == set(trained(model))


def test_an_adapter_that_a_round_froze_is_kept_too(tmp_path: Path) -> None:
    model, again = (adapt("lora", frozen("llama")).model for _ in range(2))
    moved(model)
    still = [name for name in trained(model) if "down_proj" in name]
    for each in (model, again):
        for name in still:
            each.get_parameter(name).requires_grad_(False)
    save_trained(model, {}, tmp_path)
    assert load_trained(again, tmp_path) == {}
    assert still and all(torch.equal(model.get_parameter(name), again.get_parameter(name)) for name in still)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    save_trained(adapt("lora", frozen("llama")).model, {}, tmp_path)
    count = len(load_file(tmp_path / WEIGHTS))
    wider = adapt("lora", frozen("llama", hidden_size=16)).model
    with pytest.raises(RunError, match=rf"{tmp_path} holds {count} trained tensors, which are not the {count} of this"):
        load_trained(wider, tmp_path)
    deeper = adapt("lora", frozen("llama", num_hidden_layers=3)).model
    with pytest.raises(RunError, match=rf"holds {count} trained tensors, which are not the {len(trained(deeper))} of"):
        load_trained(deeper, tmp_path)
    for model in (wider, deeper):
        assert all(not parameter.any() for name, parameter in trained(model).items() if "lora_B" in name)


DAMAGE = {WEIGHTS: (b"", b"\x10\0\0\0\0\0\0\0{", None), STATE: (b"", b"PK\x03\x04", None)}


@pytest.mark.parametrize(
    ("file", "content"), [(file, content) for file, all_of in DAMAGE.items() for content in all_of]
)
def test_a_damaged_checkpoint_is_refused(file: str, content: bytes | None, tmp_path: Path) -> None:
    model = adapt("lora", frozen("llama")).model
    save_trained(model, {"a": torch.ones(100)}, tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(
        RunError, match=rf"{file} is damaged \(.*\): remove {tmp_path} and call again; .* the checkpoint bef"
    ):
        load_trained(model, tmp_path)


class Anything:
    """What no checkpoint holds."""


def test_a_state_of_more_than_tensors_and_plain_values_is_not_run(tmp_path: Path) -> None:
    model = adapt("lora", frozen("llama")).model
    save_trained(model, {"a": Anything()}, tmp_path)
    with pytest.raises(RunError, match=rf"{STATE} is damaged \(.*[Ww]eights.only"):
        load_trained(model, tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "fault"),
    [
        (COMPLETE, b"{", f"has a damaged {COMPLETE}"),
        (COMPLETE, b"{}", f"has a damaged {COMPLETE}"),
        (COMPLETE, b'{"seconds": "x"}', f"has a damaged {COMPLETE}"),
        (COMPLETE, b"[]", f"has a damaged {COMPLETE}"),
        (WEIGHTS, b"", f"has a damaged {WEIGHTS}"),
        (WEIGHTS, b"y", f"has a damaged {WEIGHTS}"),
        (WEIGHTS, None, f"lacks {WEIGHTS}"),
    ],
)
def test_of_a_damaged_checkpoint_the_one_before_is_taken(
    file: str, content: bytes | None, fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, damaged = (checkpoint(tmp_path, step, whole=True) for step in (3, 20))
    (damaged / file).unlink()
    if content is not None:
        (damaged / file).write_bytes(content)
    assert last_checkpoint(tmp_path, ORIGIN) == before
    assert f"checkpoint-20 {fault}; taking the one before it" in caplog.text
    assert not damaged.exists()
    (before / COMPLETE).unlink()
    assert last_checkpoint(tmp_path, ORIGIN) is None
    assert "checkpoint-3 was cut while it was written; training from the start" in caplog.text


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (replace(ORIGIN, run_id="beef"), "checkpoint-3 belongs to run 0123abcd, and this is run beef: remove"),
        (
            replace(ORIGIN, plan="e" * 32),
            r"another plan \(fingerprint ffffffffffff\) than .* run \(eeeeeeeeeeee\): put the",
        ),
        (
            replace(ORIGIN, versions={"torch": "2.14.0", "peft": "0.21.2"}),
            "was written with torch 2.13.0, and this is torch 2.14.0, which may compute otherwise: install the former",
        ),
        (
            replace(ORIGIN, versions={"torch": "2.13.0", "bitsandbytes": "1"}),
            "with bitsandbytes absent, peft 0.21.2, and this is bitsandbytes 1, peft absent",
        ),
        (
            replace(ORIGIN, code="d" * 32, commit="3c4d"),
            r"by other code of spectral_ft \(fingerprint cccccccccccc, commit 1a2b\) than this \(fingerprint "
            r"dddddddddddd, commit 3c4d\), which may compute otherwise: go back to the former to go on, or remove",
        ),
        (
            replace(ORIGIN, processes=2),
            "with a world size of 1, and this run has one of 2, which draws other random numbers: start as many pro",
        ),
    ],
)
def test_a_checkpoint_from_elsewhere_is_refused(other: Origin, sentence: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 3, whole=True)
    with pytest.raises(RunError, match=f"{sentence}.* to train anew"):
        last_checkpoint(tmp_path, other)
    assert path.is_dir()
    assert last_checkpoint(tmp_path, replace(ORIGIN, commit=None)) == path


def test_a_checkpoint_of_code_that_said_less_of_itself_is_refused_and_kept(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 3, whole=False)
    (path / "steps.json").unlink()
    mark_whole(path, step=3, seconds=1.0, origin=ORIGIN)
    told = json.loads((path / COMPLETE).read_text())
    del told["digest"]
    for key in ("code", "commit", "processes"):
        del told["origin"][key]
    (path / COMPLETE).write_text(json.dumps(told))
    with pytest.raises(RunError, match=r"by other code of spectral_ft \(fingerprint None, commit unknown\) than this"):
        last_checkpoint(tmp_path, ORIGIN)
    assert path.is_dir()
