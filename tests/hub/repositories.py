# ruff: noqa: E501 - rows read better in one line
"""Tiny repositories of the published layouts: random weights, made-up rows, and files that must not be fetched."""

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import sentencepiece
import torch
import transformers
import yaml
from safetensors.torch import save_file

Rows = Sequence[Mapping[str, Any]]
NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eve", "Finn")
THINGS = ("apples", "books", "coins", "dogs", "eggs")


def problem(number: int) -> tuple[str, int]:
    """A made-up problem that no other number has, and its answer."""
    name, thing = NAMES[number % len(NAMES)], THINGS[number % len(THINGS)]
    first, second = 3 + number * 7 % 89, 2 + number * 5 % 53
    return f"In house {number} {name} has {first} {thing} and finds {second} more. How many are there?", first + second


def text(number: int) -> str:
    return problem(number)[0]


SIZES = {"vocab_size": 320, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 4096, "tie_word_embeddings": False, **SIZES,
}  # fmt: skip
GROUPED = LLAMA | {"num_key_value_heads": 1}
BERT = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 512,
}  # fmt: skip
OTHER_WEIGHTS = ("tf_model.h5", "flax_model.msgpack", "rust_model.ot", "onnx/model.onnx")


def make_models(root: Path) -> None:
    """Every model id of conf/, as its main branch is laid out."""
    llama, falcon = transformers.LlamaConfig, transformers.FalconConfig
    two = causal(llama(**LLAMA))
    model(
        root, "meta-llama/Llama-2-7b-hf", two, shards=2, bins=2, tokenizer="both", others=("LICENSE.txt", "README.md")
    )
    model(root, "meta-llama/Llama-2-13b-hf", two, shards=3, bins=3, tokenizer="both")
    original = ("original/consolidated.00.pth", "original/tokenizer.model")
    model(root, "meta-llama/Meta-Llama-3-8B", causal(llama(**GROUPED)), shards=4, tokenizer="json", others=original)
    model(root, "yahma/llama-7b-hf", two, bins=2, tokenizer="model", old=True)
    model(root, "yahma/llama-7b-hf", two, bins=2, shards=2, tokenizer="model", revision="refs%2Fpr%2F3")
    seven = falcon(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, multi_query=True, **SIZES)
    code = ("configuration_falcon.py", "modeling_falcon.py", "handler.py", "coreml/text-generation/weight.bin")
    model(root, "tiiuae/falcon-7b", causal(seven), shards=2, bins=2, tokenizer="json", others=code)
    gpt2 = causal(transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=1024, **SIZES))
    model(root, "openai-community/gpt2", gpt2, shards=1, bins=1, tokenizer="json", others=OTHER_WEIGHTS)
    qwen = causal(transformers.Qwen2Config(**GROUPED | {"tie_word_embeddings": True, "vocab_size": 384}))
    model(root, "Qwen/Qwen2.5-0.5B", qwen, shards=1, tokenizer="json")
    smol = causal(llama(**GROUPED | {"tie_word_embeddings": True}))
    runs = ("onnx/model.onnx", "runs/Oct31/events.out.tfevents.0", "all_results.json")
    model(root, "HuggingFaceTB/SmolLM2-135M-Instruct", smol, shards=1, tokenizer="json", others=runs)
    bert = transformers.BertForPreTraining(transformers.BertConfig(**BERT))
    model(root, "google-bert/bert-base-uncased", bert, shards=1, bins=1, tokenizer="words", others=OTHER_WEIGHTS)
    pools = ("1_Pooling/config.json", "openvino/openvino_model.bin", "modules.json", "train_script.py")
    body = transformers.BertModel(transformers.BertConfig(**BERT))
    minilm = "sentence-transformers/all-MiniLM-L6-v2"
    model(root, minilm, body, shards=1, bins=1, tokenizer="words", others=(*OTHER_WEIGHTS, *pools))
    t5 = transformers.T5Config(
        vocab_size=320, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, pad_token_id=0, eos_token_id=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    small = transformers.T5ForConditionalGeneration(t5)
    model(root, "google-t5/t5-small", small, shards=1, bins=1, tokenizer="spiece", others=OTHER_WEIGHTS)


def causal(config: Any) -> Any:
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config)


def model(
    root: Path,
    name: str,
    source: Any,
    *,
    shards: int = 0,
    bins: int = 0,
    tokenizer: str,
    others: Sequence[str] = (),
    revision: str = "main",
    old: bool = False,
) -> Path:
    """A model's repository: safetensors in shards, `.bin` in shards, a tokenizer, other files."""
    folder = root / "models" / name / revision
    source.config.save_pretrained(folder)
    if source.can_generate():
        source.generation_config.save_pretrained(folder)
    state = {key: tensor.clone() for key, tensor in source.state_dict().items()}
    weights(folder, state, shards, "model", "safetensors")
    if old:  # checkpoints of 2023 held a buffer
        state |= {f"model.layers.{block}.self_attn.rotary_emb.inv_freq": torch.ones(8) for block in range(2)}
    weights(folder, state, bins, "pytorch_model", "bin")
    _tokenizer(folder, tokenizer)
    for other in others:
        (folder / other).parent.mkdir(parents=True, exist_ok=True)
        (folder / other).write_text("{}" if other.endswith(".json") else "not to be read")
    return folder


def weights(folder: Path, state: dict[str, torch.Tensor], count: int, stem: str, ending: str) -> None:
    """One file, or an index and as many shards."""

    def save(part: dict[str, torch.Tensor], path: Path) -> None:
        save_file(part, path, metadata={"format": "pt"}) if ending == "safetensors" else torch.save(part, path)

    if count == 1:
        save(state, folder / f"{stem}.{ending}")
    if count > 1:
        parts = [f"{stem}-{part + 1:05d}-of-{count:05d}.{ending}" for part in range(count)]
        places = {name: parts[number * count // len(state)] for number, name in enumerate(state)}
        for part in parts:
            save({name: state[name] for name, place in places.items() if place == part}, folder / part)
        index = {"metadata": {"total_size": 0}, "weight_map": places}
        (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(index))


@cache
def _pieces(kind: str) -> bytes:
    import io

    lines = [text(number) for number in range(400)] + ["the answer is true or false", "Below is an instruction that"]
    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=stream, vocab_size=320, model_type=kind, byte_fallback=True,
        hard_vocab_limit=False, minloglevel=2, **({"pad_id": 0, "eos_id": 2, "unk_id": 1, "bos_id": -1} if kind == "unigram" else {}),
    )  # fmt: skip
    return stream.getvalue()


def _tokenizer(folder: Path, kind: str) -> None:
    config: dict[str, Any] = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    config |= {"unk_token": "<unk>", "add_bos_token": True, "add_eos_token": False, "legacy": False}
    if kind == "words":
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(33, 127)), "good", "bad", "film"]
        (folder / "vocab.txt").write_text("\n".join(words))
        config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    elif kind == "spiece":
        (folder / "spiece.model").write_bytes(_pieces("unigram"))
        config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}
    else:
        (folder / "tokenizer.model").write_bytes(_pieces("bpe"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if kind in {"both", "json"}:
        transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    if kind == "json":
        (folder / "tokenizer.model").unlink(missing_ok=True)


def make_data_sets(root: Path) -> None:
    """Every data set that conf/ and lm-eval's tasks name."""
    taught = [
        {"instruction": text(number), "input": "", "output": f"Add them. The answer is {problem(number)[1]}", "answer": str(problem(number)[1])}
        for number in range(1000, 1180)
    ]  # fmt: skip
    slim = [{name: row[name] for name in ("instruction", "output", "answer")} for row in taught]
    data_set(root, "lmms-lab/Math10K", {None: {"train": slim}})
    data_set(root, "zwhe99/commonsense_170k", {None: {"train": taught}})
    mawps = [
        {"Question": f"Case {number}: Ann has N_00 cups and finds N_01 more", "Numbers": f"{number}.0 2.5",
         "Equation": "N_00 + N_01", "Answer": number + 2.5}
        for number in range(30)
    ]  # fmt: skip
    folder = root / "datasets" / "mwpt5/MAWPS" / "main"
    folder.mkdir(parents=True)
    pd.DataFrame(mawps).to_csv(folder / "MAWPS.csv", index=False)
    solved = [{"question": text(n), "answer": f"Add them.\n#### {problem(n)[1]}"} for n in range(30)]
    data_set(root, "openai/gsm8k", {"main": {"train": solved[6:], "test": solved[:6]}, "socratic": {"test": solved}})
    letters = "ABCDE"
    algebra = [
        {"question": text(n), "options": [f"{letter}){n + k}" for k, letter in enumerate(letters)],
         "rationale": "Add them.", "correct": letters[n % 5]}
        for n in range(40, 70)
    ]  # fmt: skip
    data_set(
        root, "deepmind/aqua_rat", {"raw": {"train": algebra, "test": algebra[:4]}, "tokenized": {"train": algebra}}
    )
    chosen = [
        {"query": f"Q: {text(n)} Answer Choices: (A)1 (B)2\nA: Among A through E, the answer is",
         "choices": [f"({letter}){n + k}" for k, letter in enumerate(letters)], "gold": [n % 5]}
        for n in range(5)
    ]  # fmt: skip
    data_set(root, "hails/agieval-aqua-rat", {None: {"test": chosen}})
    asked = [{"question": f"is {n} even", "passage": f"{n} is a number.", "answer": n % 2 == 0} for n in range(40)]
    data_set(root, "google/boolq", {None: {"train": asked, "validation": asked[:5]}})
    glued = [{"question": r["question"], "passage": r["passage"], "idx": n, "label": int(r["answer"])} for n, r in enumerate(asked)]  # fmt: skip
    data_set(root, "aps/super_glue", {"boolq": {"train": glued, "validation": glued[:5], "test": glued[5:9]}, "cb": {"test": glued}})  # fmt: skip
    physical = [{"goal": f"carry {n}", "sol1": "use a bag", "sol2": "use a sieve", "label": n % 2} for n in range(5)]
    data_set(root, "baber/piqa", {None: {"train": physical, "validation": physical}})
    social = [{"context": f"Ann met {n} friends.", "question": "Why?", "answerA": "a", "answerB": "b", "answerC": "c", "label": "2"} for n in range(5)]  # fmt: skip
    data_set(root, "lighteval/siqa", {None: {"train": social, "validation": social}})
    endings = [
        {"ind": n, "activity_label": "Cooking", "ctx_a": "A man stirs.", "ctx_b": "then he", "ctx": "A man stirs. then he",
         "endings": ["eats", "runs", "sings", "sleeps"], "source_id": str(n), "split": "val", "split_type": "indomain", "label": "1"}
        for n in range(5)
    ]  # fmt: skip
    data_set(root, "Rowan/hellaswag", {None: {"train": endings, "validation": endings, "test": endings}})
    choices = {"text": ["ice", "sun"], "label": ["A", "B"]}
    science = [{"id": str(n), "question": f"What melts {n}?", "choices": choices, "answerKey": "A"} for n in range(5)]
    splits = {"train": science, "validation": science, "test": science}
    data_set(root, "allenai/ai2_arc", {"ARC-Easy": splits, "ARC-Challenge": splits})
    book = [{"id": str(n), "question_stem": f"Stone {n} is", "choices": choices, "answerKey": "B"} for n in range(5)]
    data_set(root, "allenai/openbookqa", {"main": {"train": book, "validation": book, "test": book}, "additional": {"test": book}})  # fmt: skip
    blanks = [{"sentence": f"The cup {n} is in the box, so _ is full.", "option1": "cup", "option2": "box", "answer": "2"} for n in range(5)]  # fmt: skip
    data_set(root, "allenai/winogrande", {"winogrande_xl": {"train": blanks, "validation": blanks}, "winogrande_s": {"train": blanks}})  # fmt: skip
    judged = [{"sentence": f"film {n} is {'good' if n % 2 else 'bad'} ", "label": n % 2, "idx": n} for n in range(40)]
    data_set(root, "nyu-mll/glue", {"sst2": {"train": judged, "validation": judged[:6], "test": judged[:2]}, "cola": {"train": judged}})  # fmt: skip
    reviews = [{"text": row["sentence"], "label": row["label"]} for row in judged]
    hidden = [{"text": "film", "label": -1}]
    data_set(root, "stanfordnlp/imdb", {"plain_text": {"train": reviews, "test": reviews[:6], "unsupervised": hidden}})
    pages = [{"text": line} for line in ("", " = A title = \n", "Some words of an article . \n" * 5)]
    data_set(root, "Salesforce/wikitext", {name: {"test": pages, "train": pages} for name in ("wikitext-2-raw-v1", "wikitext-2-v1")})  # fmt: skip


def data_set(root: Path, name: str, configurations: Mapping[str | None, Mapping[str, Rows]]) -> Path:
    """A data set's repository: one parquet file a split, and the card that says which is which."""
    folder = root / "datasets" / name / "main"
    described = []
    for configuration, splits in configurations.items():
        files = []
        for split, rows in splits.items():
            place = f"{configuration or 'data'}/{split}-00000-of-00001.parquet"
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(list(rows)).to_parquet(folder / place)
            files.append({"split": split, "path": f"{configuration or 'data'}/{split}-*"})
        described.append({"config_name": configuration or "default", "data_files": files})
    card = yaml.safe_dump({"configs": described}, sort_keys=False)
    (folder / "README.md").write_text(f"---\n{card}---\n# {name}\n")
    return folder


def make_faulty(root: Path) -> None:
    """Repositories with which something is wrong."""
    data_set(root, "faulty/columns", {None: {"train": [{"prompt": "a", "reply": "b"}]}})
    script = root / "datasets" / "faulty/script" / "main"
    script.mkdir(parents=True)
    (script / "script.py").write_text("raise SystemExit")
    (script / "README.md").write_text("# faulty\n")
    empty = root / "datasets" / "faulty/empty" / "main"
    empty.mkdir(parents=True)
    (empty / "README.md").write_text("# faulty\n")
    data_set(root, "faulty/damaged", {None: {"train": [{"instruction": "a", "output": "b"}]}})
    next((root / "datasets" / "faulty/damaged").rglob("*.parquet")).write_bytes(b"PAR1 and nothing else")
    whole = root / "models" / "meta-llama/Llama-2-7b-hf" / "main"
    for name, kept in {
        "faulty/gguf-only": ("config.json",),
        "faulty/lacks-a-shard": ("config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"),
        "faulty/no-config": ("tokenizer.json",),
    }.items():
        place = root / "models" / name / "main"
        place.mkdir(parents=True)
        for file in kept:
            shutil.copy(whole / file, place / file)
    (root / "models" / "faulty/gguf-only" / "main" / "model.Q4_K_M.gguf").write_text("GGUF")
