"""What scoring costs beside a bare lm-eval, and whether both say the same of every item: `make bench-evaluation`.

    python bench/evaluation.py --model FOLDER --data FOLDER [--rows WORDS] [--items N] [--batch N] [--tokens N]
        [--dtype NAME] [--together] [--out bench]

--data is a folder with gsm8k/ (train and test) and llm_adapters/. --rows takes some of `parity gsm8k`,
`parity arc_easy`, `parity boolq`, `batch gsm8k`, `batch arc_easy`, `batch boolq`, `adapters`, several apart by `;`.
What is measured replaces that row in `evaluation.json`; the other rows stay.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

TASKS = {
    "gsm8k": ["benchmark=gsm8k", "benchmark.protocol=standard", "benchmark.data_dir={data}/gsm8k"],
    "arc_easy": ["benchmark=arc_easy", "benchmark.protocol=paper", "benchmark.data_dir={data}/llm_adapters"],
    "boolq": ["benchmark=boolq", "benchmark.protocol=paper", "benchmark.data_dir={data}/llm_adapters"],
}
"""GSM8K with five examples in the prompt; the others as LLM-Adapters asks them, with four beams."""
FEW = {"gsm8k": 32, "arc_easy": 64, "boolq": 64}
"""Items by which one at a time is compared with as many as fit."""
ADAPTERS = 3
DTYPE = "bfloat16"
"""Of the weights where nothing else is asked for; parity in another one is a row of its own."""
ROWS = [*(f"parity {task}" for task in TASKS), *(f"batch {task}" for task in TASKS), "adapters"]


def main() -> None:
    """Measure, write after each row, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a small real model")
    parser.add_argument("--data", type=Path, required=True, help="folder of gsm8k/ and llm_adapters/")
    parser.add_argument("--rows", default="", help="part of a row's name; several apart by ;")
    parser.add_argument("--items", type=int, default=200, help="of each task where both are compared")
    parser.add_argument("--batch", type=int, default=16, help="items at a time where both are compared")
    parser.add_argument("--tokens", type=int, help="most new tokens of an answer where both are compared")
    parser.add_argument("--dtype", default=DTYPE)
    parser.add_argument("--together", action="store_true", help="both sides at the same time, which takes two cores")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--contend", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contend:
        print(json.dumps(contend(**json.loads(arguments.contend))))
        return
    words = [word.strip() for word in arguments.rows.split(";")]
    file = arguments.out / "evaluation.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    model, data = arguments.model.resolve(), arguments.data.resolve()
    for row in (row for row in ROWS if any(word in row for word in words)):
        with tempfile.TemporaryDirectory() as folder:
            shared = {"model": str(model), "data": str(data), "dtype": arguments.dtype, "folder": folder}
            kind, _, task = row.partition(" ")
            print(f"measuring {row}", file=sys.stderr)
            if kind == "parity":
                name = row if arguments.dtype == DTYPE else f"{row}, {arguments.dtype}"
                found[name] = parity(
                    task,
                    items=arguments.items,
                    batch=arguments.batch,
                    tokens=arguments.tokens,
                    together=arguments.together,
                    **shared,
                )
            elif kind == "batch":
                found[row] = batches(task, **shared)
            else:
                found[row] = adapters(**shared)
        file.write_text(json.dumps(found, indent=1) + "\n")
        (arguments.out / "evaluation.md").write_text(page(found))
    print(page(found))


def child(**job: Any) -> dict[str, Any]:
    """A job in a process of its own.

    Args:
        **job: What `contend` takes.

    Returns:
        What it found.

    Raises:
        RuntimeError: If it fails.
    """
    command = [sys.executable, str(Path(__file__)), "--model", job["model"], "--data", job["data"]]
    done = subprocess.run([*command, "--contend", json.dumps(job)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{job} failed: {done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def parity(
    task: str, *, items: int, batch: int, tokens: int | None, together: bool = False, **shared: str
) -> dict[str, Any]:
    """Both sides on the same task file.

    Args:
        task: Of `TASKS`.
        items: The first so many.
        batch: Items at a time.
        tokens: Most new tokens of an answer; None for the task's own.
        together: Both at the same time, so that both have the same neighbours.
        **shared: Model, data, dtype and a folder.

    Returns:
        Seconds of both; how many items have the same answer on both sides, and how many judgements (one an item and
        rule) are the same.
    """
    job = {"task": task, "items": items, "batch": batch, "tokens": tokens, **shared}
    with ThreadPoolExecutor(2 if together else 1) as pool:
        ours, bare = pool.map(lambda side: child(side=side, **job), ("ours", "bare"))
    same = [ours["answers"].get(item) == answer for item, answer in bare["answers"].items()]
    right = [ours["right"].get(key) == value for key, value in bare["right"].items()]
    return {
        "items": items,
        "batch": batch,
        "model": Path(shared["model"]).name,
        "dtype": shared["dtype"],
        "tokens": tokens,
        "together": together,
        "answers_alike": sum(same),
        "answers": len(same),
        "judged_alike": sum(right),
        "judged": len(right),
        "scores": {"ours": ours["scores"], "bare": bare["scores"]},
        "cpu": {"ours": ours["cpu"], "bare": bare["cpu"]},
        "wall": {"ours": ours["wall"], "bare": bare["wall"]},
    }


def batches(task: str, **shared: str) -> dict[str, Any]:
    """One item at a time against as many as fit.

    Args:
        task: Of `TASKS`.
        **shared: Model, data, dtype and a folder.

    Returns:
        Seconds of both, and the batch that was found.
    """
    items = FEW[task]
    one, found = (child(side="ours", task=task, items=items, batch=batch, **shared) for batch in (1, None))
    return {
        "items": items,
        "model": Path(shared["model"]).name,
        "dtype": shared["dtype"],
        "batch": found["batch"],
        "cpu": {"one": one["cpu"], "found": found["cpu"]},
        "wall": {"one": one["wall"], "found": found["wall"]},
    }


def adapters(**shared: str) -> dict[str, Any]:
    """Several adapters of one loaded base against each alone, loading left out.

    Args:
        **shared: Model, data, dtype and a folder.

    Returns:
        Seconds.
    """
    job = {"side": "adapters", "task": "boolq", "items": 32, "batch": 16, **shared}
    together = child(count=ADAPTERS, **job)
    alone = [child(count=1, first=number, **job) for number in range(ADAPTERS)]
    return {
        "adapters": ADAPTERS,
        "model": Path(shared["model"]).name,
        "cpu": {"together": together["cpu"], "alone": [one["cpu"] for one in alone]},
        "wall": {"together": together["wall"], "alone": [one["wall"] for one in alone]},
    }


def contend(
    *,
    side: str,
    task: str,
    items: int,
    batch: int | None,
    model: str,
    data: str,
    dtype: str,
    folder: str,
    tokens: int | None = None,
    count: int = 0,
    first: int = 0,
) -> dict[str, Any]:
    """One side, in this process.

    Args:
        side: `ours`, `bare`, or `adapters`.
        task: Of `TASKS`.
        items: The first so many.
        batch: Items at a time; None for as many as fit.
        model: Folder.
        data: Folder.
        dtype: Of the weights.
        folder: For task files.
        tokens: Most new ones of an answer; None for the task's own.
        count: Of adapters.
        first: Number of the first adapter.

    Returns:
        Seconds, answers and scores.
    """
    import torch

    torch.set_num_threads(1)
    from spectral_ft.compose import build_experiment, composed
    from spectral_ft.models.loading import load_tokenizer
    from spectral_ft.stages.base import load_base
    from spectral_ft.stages.benchmarks import source_tasks
    from spectral_ft.stages.evaluation import Scorer

    chosen = [one.format(data=data) for one in TASKS[task]]
    chosen += ["model=hf", f"model.path={model}", f"model.dtype={dtype}", "quantization=none", "method=none"]
    chosen += [f"benchmark.limit={items}", f"benchmark.batch_size={batch or 'null'}", "benchmark.gold_loss=false"]
    chosen += ["benchmark.cache=false", "rank_policy=none"]
    chosen += [f"benchmark.generation={{max_gen_toks: {tokens}}}"] if tokens else []
    chosen += ["benchmark.stages=[tuned]"] if side == "adapters" else []
    experiment = build_experiment(composed(chosen))
    checkpoint, sourced = experiment.model.locate(), source_tasks(experiment)
    base = load_base(experiment, checkpoint)
    if side == "adapters":
        places = [_adapter(base, Path(folder) / f"adapter-{n}", seed=n) for n in range(first, first + count)]
        scorer = Scorer(experiment, checkpoint, sourced)
        scorer.__dict__["_base"] = base
        began = time.perf_counter(), time.process_time()
        for place in places:
            scorer.score(place / f"scored-of-{count}", adapter=place)
        return {"wall": time.perf_counter() - began[0], "cpu": time.process_time() - began[1]}
    prepared = sourced[0].prepare(None, Path(folder) / side)
    tokenizer = load_tokenizer(checkpoint.folder, kind="causal_lm", trust_remote_code=False)
    began = time.perf_counter(), time.process_time()
    found = (_ours if side == "ours" else _bare)(base, tokenizer, prepared, experiment, checkpoint)
    return {"wall": time.perf_counter() - began[0], "cpu": time.process_time() - began[1], **found}


def _ours(base: Any, tokenizer: Any, prepared: Any, experiment: Any, checkpoint: Any) -> dict[str, Any]:
    from spectral_ft.evaluation import language_model
    from spectral_ft.evaluation.harness import score_task

    sizes: list[int] = []
    model = language_model.CheckedModel
    original = model._model_generate
    model._model_generate = lambda self, **given: sizes.append(len(given["context"])) or original(self, **given)  # type: ignore[method-assign]
    found = score_task(
        base, tokenizer, prepared, experiment.benchmark, stage="base", context=checkpoint.context_length
    )  # fmt: skip
    rows = [(row["id"], row["extractor"], row["response"], row["metrics"]["exact_match"]) for row in found.samples]
    return {
        "batch": max(sizes),
        "answers": {f"{item}": response for item, _, response, _ in rows},
        "right": {f"{item} {rule}": right for item, rule, _, right in rows},
        "scores": {score.extractor: score.value for score in found.scores if score.metric != "unfinished"},
    }


def _bare(base: Any, tokenizer: Any, prepared: Any, experiment: Any, checkpoint: Any) -> dict[str, Any]:
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    evaluator.get_git_commit_hash = lambda: None
    benchmark = experiment.benchmark
    results: Any = evaluator.simple_evaluate(
        model=HFLM(
            pretrained=base, tokenizer=tokenizer, batch_size=benchmark.batch_size, max_length=checkpoint.context_length
        ),
        tasks=[str(prepared.file)],
        task_manager=TaskManager(include_defaults=False),
        limit=benchmark.limit,
        bootstrap_iters=1000,
        log_samples=True,
        gen_kwargs=dict(benchmark.generation) if benchmark.generation else None,
    )
    right = {}
    for row in results["samples"][prepared.name]:
        for name in row["metrics"]:  # a rule of our task files is a metric of the harness
            right[f"{row['doc_id']} {row['filter'] if name == 'exact_match' else name}"] = float(row[name])
    numbers = results["results"][prepared.name]
    scores = {}
    for key, value in numbers.items():
        metric, _, rule = key.partition(",")
        if rule and not metric.endswith("_stderr"):
            scores[rule if metric == "exact_match" else metric] = float(value)
    return {
        "answers": {f"{row['doc_id']}": row["resps"][0][0] for row in results["samples"][prepared.name]},
        "right": right,
        "scores": scores,
    }


def _adapter(base: Any, folder: Path, *, seed: int) -> Path:
    import copy

    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(task_type="CAUSAL_LM", r=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(copy.deepcopy(base), config).save_pretrained(folder)
    return folder


def page(found: dict[str, Any]) -> str:
    """The measured rows as Markdown.

    Args:
        found: Row to what was measured.

    Returns:
        The page.
    """
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "lm_eval"))
    models = " and ".join(sorted({one["model"] for one in found.values()}))
    lines = [
        "# What scoring costs beside a bare lm-eval",
        "",
        f"{date.today()}, {models}, one BLAS thread; {packages}. `make bench-evaluation` makes this file.",
        "",
        "Both sides get the same weights and the same task file, and answer the same items in batches of the same",
        "size; ours also keeps every answer on disk, batch by batch. Loading is left out. Bars: every item alike,",
        "no more CPU time, twice the items a CPU second of one at a time, 1.05 times the sum for several adapters.",
        "What is compared takes turns, each in a process of its own, so that whatever else the machine does meanwhile",
        "moves the wall time of one side and not of the other; the ratio of wall times is no bar. CPU time moves by",
        "some per cent too: where it matters both sides run at the same time, a core each, with the same neighbours.",
        "",
        "| task | items | batch | items answered alike | judgements alike | ours, CPU s | bare, CPU s | ratio | wall |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row, one in found.items():
        if row.startswith("parity"):
            cpu, wall = one["cpu"], one["wall"]
            lines.append(
                f"| {_said(row, one)} | {one['items']} | {one['batch']} "
                f"| {one['answers_alike']} of {one['answers']} | {one['judged_alike']} of {one['judged']} "
                f"| {cpu['ours']:.0f} | {cpu['bare']:.0f} | {cpu['ours'] / cpu['bare']:.2f} "
                f"| {wall['ours'] / wall['bare']:.2f} |"
            )
    lines += ["", "| task | items | batch that was found | items a CPU second, one at a time | found | ratio |"]
    lines += ["|---|---|---|---|---|---|"]
    for row, one in found.items():
        if row.startswith("batch"):
            each = {size: one["items"] / seconds for size, seconds in one["cpu"].items()}
            lines.append(
                f"| {row.removeprefix('batch ')} ({one['dtype']}) | {one['items']} | {one['batch']} "
                f"| {each['one']:.2f} | {each['found']:.2f} | {each['found'] / each['one']:.1f} |"
            )
    if "adapters" in found:
        one = found["adapters"]
        alone = sum(one["cpu"]["alone"])
        lines += [
            "",
            f"{one['adapters']} adapters of one loaded base, one after the other: {one['cpu']['together']:.1f} CPU s; "
            f"each in a process of its own, loading left out: {alone:.1f} CPU s together, ratio "
            f"{one['cpu']['together'] / alone:.2f}.",
        ]
    lines += ["", *(f"- {row}: {one['remark']}" for row, one in found.items() if "remark" in one)]
    return "\n".join(lines).rstrip() + "\n"


def _said(row: str, one: dict[str, Any]) -> str:
    limit = f", at most {one['tokens']} tokens" if one.get("tokens") else ""
    how = ", both at once" if one.get("together") else ""
    return f"{row.removeprefix('parity ').partition(',')[0]} ({one['dtype']}{limit}{how})"


if __name__ == "__main__":
    main()
