"""The command `plan`; oracles: published counts, what stock PEFT trains, scipy, plans edited in known places."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from peft import get_peft_model
from safetensors.torch import load_file
from scipy.stats import spearmanr
from transformers import AutoModelForCausalLM, LlamaConfig

from spectral_ft import plan, run, storage
from spectral_ft.adapters.lora import lora_config
from spectral_ft.types import AllocationPlan, RunResult
from tests.conftest import EMBEDDED, QUICK, Called, call_entry

UP, Q, NEXT_Q = "model.layers.1.mlp.up_proj", "model.layers.1.self_attn.q_proj", "model.layers.2.self_attn.q_proj"
UNIFORM = 116_736
"""Parameters of rank 8 on all 28 matrices of the embedded model."""
PUBLISHED_MODULES = "rank_policy.target_modules=[q_proj,k_proj,v_proj,up_proj,down_proj]"
SIZES = {
    "llama-7b": {"vocab_size": 32000, "intermediate_size": 11008, "num_key_value_heads": 32},
    "llama3-8b": {"vocab_size": 128256, "intermediate_size": 14336, "num_key_value_heads": 8},
}


class Planned(NamedTuple):
    called: Called
    folder: Path
    left: AllocationPlan | None
    """The plan by then."""

    @property
    def plan(self) -> AllocationPlan:
        """Of a command that succeeded."""
        assert self.called.code == 0 and self.left is not None, self.called.err
        return self.left

    @property
    def sentence(self) -> str:
        """What a failed command says."""
        assert self.called.code == 1 and "Traceback" not in self.called.err, self.called.err
        (found,) = [line for line in self.called.err.splitlines() if line.startswith("error: ")]
        assert self.called.err.rstrip().endswith(found), "one sentence, and no more"
        return found.removeprefix("error: ")


Plan = Callable[..., Planned]
Change = Callable[[list[dict[str, Any]]], None]


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Plan:
    """Calls `spectral_ft.plan` in this process; its files go to `plan`, or where it is told."""
    monkeypatch.chdir(tmp_path)

    def call(*overrides: str, folder: str = "plan", entry: Callable[[], None] = plan.main) -> Planned:
        capfd.readouterr()
        place = tmp_path / folder
        given = overrides if any(word.startswith("figures=") for word in overrides) else ("figures=false", *overrides)
        code = call_entry(entry, "tracking.mode=disabled", f"hydra.run.dir={place}", *given)
        left = storage.read_json(place / "plan.json", AllocationPlan) if code == 0 else None
        return Planned(Called(code, *capfd.readouterr()), place, left)

    return call


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of 32 blocks takes seconds to estimate, and is another test's."""
    from spectral_ft.stages import planning

    monkeypatch.setattr(planning, "estimated_memory", lambda *given: None)


def ranks(of: AllocationPlan) -> dict[str, int]:
    return {allocation.name: allocation.rank for allocation in of.allocations}


def shapes(folder: Path, **sizes: Any) -> Path:
    """A folder that holds a Llama's config.json alone."""
    LlamaConfig(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, **sizes).save_pretrained(folder)
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    return folder


# ---- what it leaves and says


def test_a_plan_leaves_its_file_and_its_figure_and_says_what_it_costs(planned: Plan) -> None:
    found = planned("method=alors", "figures=true")
    figure = found.folder / "figures" / "plan.png"
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert [Path(line) for line in found.called.out.splitlines()[-2:]] == [found.folder / "plan.json", figure]
    assert {path.name for path in found.folder.iterdir()} == {
        ".lock",
        "figures",
        "manifest.json",
        "plan.json",
        "run.json",
        "spectrum.parquet",
    }
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(EMBEDDED), lora_config(found.plan))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert found.plan.trainable_parameters == trained == 72_960
    out = found.called.out
    assert re.search(r"trainable parameters +72,960 \(3\.889 % of all\)", out)
    assert re.search(r"base parameters +1,803,072", out)
    assert re.search(r"estimated memory, base +6\.9 MiB", out) and "estimated memory, total" in out
    assert "allocated 14 of 28 matrices, 72,960 parameters (3.889 %)" in found.called.err


def test_the_map_has_the_rank_of_every_matrix(planned: Plan) -> None:
    found = planned("method=alors")
    lines = found.called.out.splitlines()
    first = lines.index("rank by block and module type, . frozen") + 1
    kinds = lines[first].split()[1:]
    drawn = {}
    for line in lines[first + 1 : first + 5]:
        block, *cells = line.split()
        drawn |= {(block, kind): int(cell.replace(".", "0")) for kind, cell in zip(kinds, cells, strict=True)}
    planned_ranks = ranks(found.plan)
    assert drawn == {(name.split(".")[2], name.rpartition(".")[2]): rank for name, rank in planned_ranks.items()}
    assert set(drawn.values()) == {0, 4, 16}


def test_without_figures_none_is_drawn(planned: Plan) -> None:
    found = planned("figures=false")
    assert found.called.code == 0
    assert {path.name for path in found.folder.iterdir()} == {".lock", "manifest.json", "plan.json", "run.json"}


def test_a_second_call_says_the_same(planned: Plan) -> None:
    first = planned("rank_policy=snr_top")
    before = (first.folder / "plan.json").read_bytes()
    again = planned("rank_policy=snr_top")
    assert again.called.out == first.called.out and (first.folder / "plan.json").read_bytes() == before


def test_a_method_that_trains_nothing_has_no_memory_to_estimate(planned: Plan) -> None:
    found = planned("method=none")
    assert found.called.code == 0 and found.plan.trainable_parameters == 0
    assert "estimated memory" not in found.called.out


# ---- shapes alone


@pytest.mark.parametrize(
    ("model", "options", "parameters", "percent"),
    [
        ("llama-7b", ("rank_policy.rank=32", PUBLISHED_MODULES), 56_098_816, "0.826"),
        ("llama-7b", ("method=prefix",), 2_621_440, "0.039"),
        ("llama-7b", ("method=adapter_s",), 134_217_728, "1.953"),
        ("llama-7b", ("method=adapter_p",), 247_463_936, "3.542"),
        ("llama3-8b", ("rank_policy.rank=32", PUBLISHED_MODULES), 56_623_104, "0.700"),
        ("llama3-8b", ("method=dora", "rank_policy.rank=32", PUBLISHED_MODULES), 57_409_536, "0.710"),
        ("llama3-8b", ("method=dora", "rank_policy.rank=16", PUBLISHED_MODULES), 29_097_984, "0.361"),
    ],
)
@pytest.mark.usefixtures("no_memory")
def test_published_counts_from_shapes_alone(
    model: str, options: tuple[str, ...], parameters: int, percent: str, planned: Plan, tmp_path: Path
) -> None:
    folder = shapes(tmp_path / model, **SIZES[model])
    found = planned("model=hf", f"model.path={folder}", *options)
    assert found.plan.trainable_parameters == found.plan.adapter_parameters == parameters
    assert found.plan.base_parameters == {"llama-7b": 6_738_415_616, "llama3-8b": 8_030_261_248}[model]
    assert re.search(rf"trainable parameters +{parameters:,} \({percent} % of all\)", found.called.out)


@pytest.mark.parametrize("percent", [0.821, 0.48])
@pytest.mark.usefixtures("no_memory")
def test_a_published_percentage_is_reached_from_below(percent: float, planned: Plan, tmp_path: Path) -> None:
    folder = shapes(tmp_path / "llama-7b", **SIZES["llama-7b"])
    options = ("rank_policy=depth", "budget=percent", f"budget.value={percent}")
    found = planned("model=hf", f"model.path={folder}", *options)
    cheapest = 100 * (4096 + 4096) / found.plan.base_parameters
    assert percent - cheapest < found.plan.trainable_percent <= percent


@pytest.mark.slow
def test_memory_of_published_shapes(planned: Plan, tmp_path: Path) -> None:
    folder = shapes(tmp_path / "llama-7b", **SIZES["llama-7b"])
    found = planned("model=hf", f"model.path={folder}", "model.dtype=float32", "rank_policy.rank=32", PUBLISHED_MODULES)
    for part, size in (("base", "25.10 GiB"), ("adapters", "214.0 MiB"), ("optimizer", "428.0 MiB")):
        assert re.search(rf"estimated memory, {part} +{size}", found.called.out), found.called.out


@pytest.mark.parametrize(
    ("options", "needs"), [(("method=lora_ar",), "alpha_hill, num_spikes"), (("method=eva",), "input_rank")]
)
def test_spectra_of_a_folder_without_weights(
    options: tuple[str, ...], needs: str, planned: Plan, tmp_path: Path
) -> None:
    folder = shapes(tmp_path / "llama-7b", **SIZES["llama-7b"])
    found = planned("model=hf", f"model.path={folder}", *options)
    assert found.sentence == (
        f"{folder} holds config.json and no weights, and the plan needs {needs} of them: give the whole checkpoint, "
        "or a policy that needs shapes only (uniform, depth)."
    )
    assert not (found.folder / "plan.json").exists()


def test_a_refused_plan_leaves_its_folder_free(planned: Plan, tmp_path: Path) -> None:
    folder = shapes(tmp_path / "llama-7b", **SIZES["llama-7b"])
    assert not planned("model=hf", f"model.path={folder}", "rank_policy=snr_top").folder.exists()


# ---- against another plan


def told(found: Planned) -> tuple[float, float]:
    """Jaccard and Spearman as they are printed."""
    assert found.called.code == 0, found.called.err
    jaccard, spearman = (
        re.search(rf"{name} of the .* (-?\d\.\d+)$", found.called.out, flags=re.M)
        for name in (
            "Jaccard",
            "Spearman",
        )
    )
    assert jaccard is not None and spearman is not None
    return float(jaccard[1]), float(spearman[1])


def compared(one: AllocationPlan, other: AllocationPlan) -> tuple[float, float]:
    """Jaccard and Spearman, by sets and by scipy."""
    here, there = ({a.name for a in each.allocations if a.rank} for each in (one, other))
    names = list(ranks(one))
    spearman = spearmanr([ranks(one)[name] for name in names], [ranks(other)[name] for name in names]).statistic
    return len(here & there) / len(here | there), float(spearman)


@pytest.mark.usefixtures("no_memory")
def test_another_plans_file_is_compared(planned: Plan) -> None:
    other = planned("method=alors", folder="other")
    found = planned("method=lora_ar", f"planning.against={other.folder / 'plan.json'}")
    assert told(found) == pytest.approx(compared(found.plan, other.plan), abs=5e-4)
    assert 0 < told(found)[0] < 1 and "72,960" in found.called.out
    same = planned("method=alors", f"planning.against={other.folder / 'plan.json'}", folder="same")
    assert told(same) == (1.0, 1.0)


@pytest.mark.usefixtures("no_memory")
@pytest.mark.parametrize("against", ["alors", "'lora/snr_tiers rank_policy.column=stable_rank'"])
def test_another_method_and_policy_is_compared(against: str, planned: Plan) -> None:
    found = planned("method=lora_ar", f"planning.against={against}")
    column = "rank_policy.column=stable_rank" if "column" in against else "rank_policy.column=snr"
    other = planned("method=alors", column, folder="other")
    assert told(found) == pytest.approx(compared(found.plan, other.plan), abs=5e-4)


@pytest.mark.usefixtures("no_memory")
def test_a_budget_of_another_plan_from_the_command_line(planned: Plan) -> None:
    found = planned("rank_policy=snr_top", "budget=match", "budget.of=lora/uniform")
    assert found.called.code == 0
    assert 0 <= UNIFORM - found.plan.trainable_parameters < 192 + 512


@pytest.mark.parametrize(
    ("against", "words"),
    [
        ("lorra/uniform", ["planning.against=lorra/uniform", "names no method", "Did you mean lora"]),
        ("lora/uniformm", ["planning.against=lora/uniformm", "names no rank_policy", "Did you mean uniform"]),
    ],
)
def test_another_method_that_does_not_exist(against: str, words: list[str], planned: Plan) -> None:
    sentence = planned(f"planning.against={against}").sentence
    assert all(word in sentence for word in words), sentence


@pytest.mark.usefixtures("no_memory")
def test_a_plan_of_another_model_cannot_be_compared(planned: Plan, tmp_path: Path) -> None:
    storage.write_json(
        tmp_path / "other.json",
        {
            "allocations": [{"name": "h.0", "rank": 1, "lora_alpha": 1.0}],
            "trainable_parameters": 1,
            "adapter_parameters": 1,
            "base_parameters": 1,
        },
    )
    sentence = planned(f"planning.against={tmp_path / 'other.json'}").sentence
    assert "none of the 28 matrices of the first" in sentence and "the 1 of the second (h.0)" in sentence


@pytest.mark.usefixtures("no_memory")
def test_another_plans_file_that_is_missing(planned: Plan, tmp_path: Path) -> None:
    missing = tmp_path / "no" / "plan.json"
    assert str(missing) in planned(f"planning.against={missing}").sentence


# ---- edited by hand


@pytest.fixture(scope="module")
def uniform(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a plan with rank 8 for every matrix."""
    folder = tmp_path_factory.mktemp("uniform") / "plan"
    assert call_entry(plan.main, "tracking.mode=disabled", "figures=false", f"hydra.run.dir={folder}") == 0
    return folder


@pytest.fixture
def edited(uniform: Path, planned: Plan, tmp_path: Path) -> Callable[[Change], Planned]:
    """Calls `plan` where that plan lies, with its allocations changed."""

    def call(change: Change) -> Planned:
        shutil.copytree(uniform, tmp_path / "plan")
        edit(tmp_path / "plan", change)
        assert "planning.edited=true" in planned().sentence, "an edit is not told from damage"
        return planned("planning.edited=true")

    return call


Edited = Callable[[Change], Planned]


def edit(folder: Path, change: Change) -> None:
    """Change the allocations of a plan.json."""
    path = folder / "plan.json"
    content = json.loads(path.read_text())
    change(content["allocations"])
    path.write_text(json.dumps(content | {"trainable_percent": 99.0}))


def entry(allocations: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(allocation for allocation in allocations if allocation["name"] == name)


def with_fields(name: str, /, **fields: Any) -> Change:
    return lambda allocations: entry(allocations, name).update(fields)


def grouped(*names: str) -> Change:
    def change(allocations: list[dict[str, Any]]) -> None:
        for name in names:
            entry(allocations, name).update(group="mine", shares="AB")

    return change


FAULTS: dict[str, tuple[Change, list[str]]] = {
    "an unknown matrix": (
        with_fields(Q, name=f"{Q}_b"),
        [f"plan.json has {Q}_b,", "none of the 28 matrices of this model", "remove the file"],
    ),
    "a missing matrix": (
        lambda allocations: allocations.remove(entry(allocations, Q)),
        [f"plan.json lacks {Q}:", "rank 0", "remove the file"],
    ),
    "a matrix twice": (
        lambda allocations: allocations.append(dict(entry(allocations, Q))),
        [f"plan.json has {Q} twice", "keep one"],
    ),
    "a rank above the smaller side": (
        with_fields(UP, rank=193),
        [f"plan.json gives {UP} rank 193", "smaller side, which is 192"],
    ),
    "a group over unequal shapes": (
        grouped(Q, UP),
        ["group mine", "unequal shape", f"{Q} is (192, 192)", f"{UP} is (512, 192)"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.usefixtures("no_memory")
def test_a_plan_edited_wrongly_is_one_sentence(fault: str, edited: Edited) -> None:
    change, words = FAULTS[fault]
    found = edited(change)
    assert all(word in found.sentence for word in words), found.sentence
    assert '"trainable_percent": 99.0' in (found.folder / "plan.json").read_text(), "the edit is not lost"


def test_a_file_that_is_no_plan(planned: Plan, tmp_path: Path) -> None:
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "plan.json").write_text("{")
    assert f"{tmp_path / 'plan' / 'plan.json'} is damaged or was edited" in planned().sentence


@pytest.mark.usefixtures("no_memory")
def test_an_edited_rank_is_taken_and_counted_again(edited: Edited) -> None:
    found = edited(with_fields(UP, rank=3, lora_alpha=6.0))
    assert ranks(found.plan) == {name: 3 if name == UP else 8 for name in ranks(found.plan)}
    counted = UNIFORM - 5 * (192 + 512)
    assert found.plan.trainable_parameters == found.plan.adapter_parameters == counted
    written = json.loads((found.folder / "plan.json").read_text())
    assert written["trainable_parameters"] == counted
    assert written["trainable_percent"] == pytest.approx(100 * counted / (1_803_072 + counted))
    assert f"{counted:,}" in found.called.out


@pytest.mark.usefixtures("no_memory")
def test_an_edited_group_is_counted_once(edited: Edited) -> None:
    found = edited(grouped(Q, NEXT_Q))
    assert found.plan.trainable_parameters == UNIFORM - 8 * (192 + 192)
    assert "mine: 2 share AB" in found.called.out


@pytest.mark.usefixtures("no_memory")
def test_an_adapter_needs_an_alpha(edited: Edited) -> None:
    sentence = edited(with_fields(Q, rank=4, lora_alpha=0.0)).sentence
    assert Q in sentence and "lora_alpha" in sentence


@pytest.mark.usefixtures("no_memory")
def test_a_group_under_a_method_that_cannot_share(planned: Plan) -> None:
    first = planned("method=dora")
    edit(first.folder, grouped(Q, NEXT_Q))
    sentence = planned("method=dora", "planning.edited=true").sentence
    assert "dora" in sentence and "group" in sentence


# ---- the folder


def test_run_takes_the_plan_that_lies_there(planned: Plan) -> None:
    options = (*QUICK, "training.max_steps=2", "benchmark.limit=2", "benchmark.stages=[tuned]", "rank_policy=snr_top")
    first = planned(*options)
    chosen = next(a.name for a in first.plan.adapted)
    edit(first.folder, with_fields(chosen, rank=3))
    done = planned(*options, "planning.edited=true", entry=run.main)
    assert done.called.code == 0, done.called.err
    record = storage.read_json(done.folder / "result.json", RunResult)
    assert ranks(done.plan) == ranks(first.plan) | {chosen: 3}
    assert record.plan is not None and record.train is not None
    assert record.plan["trainable_parameters"] == record.train["trainable_parameters"]
    assert record.plan["trainable_parameters"] < first.plan.trainable_parameters
    weights = load_file(done.folder / "adapter" / "adapter_model.safetensors")
    assert len(weights[f"base_model.model.{chosen}.lora_A.weight"]) == 3
    assert sum(value.numel() for value in weights.values()) == record.plan["trainable_parameters"]


@pytest.mark.usefixtures("no_memory")
def test_a_plan_of_other_options_is_not_taken_for_this_one(planned: Plan) -> None:
    planned("rank_policy.rank=8")
    again = planned("rank_policy.rank=4")
    assert again.called.code == 1 or set(ranks(again.plan).values()) == {4}


@pytest.mark.usefixtures("no_memory")
def test_a_comparison_that_needs_more_of_the_probe_gets_it(planned: Plan) -> None:
    options = ("rank_policy=gradient", "probe.batches=1", "dataset.limit=16")
    assert planned(*options).called.code == 0
    assert planned(*options, "planning.against=lora/explained_variance").called.code == 0
