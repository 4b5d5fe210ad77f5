"""A small model with a real tokenizer, and tasks that it can be asked."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from spectral_ft.data.prompts import plain
from spectral_ft.data.rows import Item
from spectral_ft.evaluation.prepare import PreparedTask, prepare
from spectral_ft.evaluation.task import Task
from tests.conftest import EMBEDDED


def small_llama(context: int = 64) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """The same random model at each call, with room for so many tokens."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(EMBEDDED)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=context,
        initializer_range=0.5,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config).eval(), tokenizer


def sums(folder: Path, items: Sequence[Item]) -> PreparedTask:
    """Written answers: two rules an item, greedy, at most 32 tokens."""
    task = Task("sums", {"standard": "wordmath"})
    return prepare(
        task, items, protocol="standard", prompt=plain, fewshot_items=[], num_fewshot=None, folder=folder
    )  # fmt: skip


def choices(folder: Path, items: Sequence[Item]) -> PreparedTask:
    """Choices of three: the right answer stands at the place of the item's number."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"q": item.instruction, "options": [item.answer if place == number % 3 else str(place) for place in range(3)]}
        | {"gold": number % 3}
        for number, item in enumerate(items)
    ]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    file = folder / "choices.yaml"
    file.write_text(
        f"""
task: choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder / "test.jsonl"}}}, cache_dir: {folder / "arrow"}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{options}}}}"
doc_to_target: gold
metric_list: [{{metric: acc}}]
"""
    )
    return PreparedTask("choices", "standard", file, str(folder))
