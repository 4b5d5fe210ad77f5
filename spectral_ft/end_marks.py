"""The tokens that a tokenizer sets around a text by itself, and a tokenizer that leaves the end of a text open.

A prompt is to be continued, and the end of an example is to be learnt. Both fail if the tokenizer sets its end mark
behind every text (`add_eos_token`, a template `<bos> $A <eos>`, BERT's `[CLS] $A [SEP]`): a prompt then ends before it
is answered, a likelihood is that of other tokens, and the end cannot be told from the text. So the texts of a causal
language model are tokenised with the marks before them and none behind them, and the end mark is set where it belongs.
"""

import copy
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from spectral_ft.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRIED = "a b"
"""A text that every tokenizer has tokens for."""


class Marks(NamedTuple):
    """Ids that a tokenizer adds to a text."""

    before: tuple[int, ...]
    behind: tuple[int, ...]


def added_marks(tokenizer: "PreTrainedTokenizerBase") -> Marks:
    """What a tokenizer sets around a text, found by what it does.

    Args:
        tokenizer: Of any kind.

    Returns:
        The ids before and behind a text.
    """
    whole = list(tokenizer(TRIED)["input_ids"])
    bare = list(tokenizer(TRIED, add_special_tokens=False)["input_ids"])
    begin = next((place for place in range(len(whole)) if whole[place : place + len(bare)] == bare), 0)
    return Marks(tuple(whole[:begin]), tuple(whole[begin + len(bare) :]))


def open_ended(tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedTokenizerBase":
    """A tokenizer that sets nothing behind a text.

    Args:
        tokenizer: Of a causal language model.

    Returns:
        The same if it sets nothing there; otherwise a copy that sets only what stands before a text.

    Raises:
        CheckpointError: If its end marks cannot be left out.
    """
    if not added_marks(tokenizer).behind:
        return tokenizer
    opened = copy.deepcopy(tokenizer)
    backend = getattr(opened, "backend_tokenizer", None)
    if backend is not None:
        backend.post_processor = _rebuilt(_open(_described(backend.post_processor)))
    if left := added_marks(opened).behind:
        names = ", ".join(map(str, opened.convert_ids_to_tokens(list(left))))
        raise CheckpointError(
            f"the tokenizer {tokenizer.name_or_path} sets {names} behind every text, which cannot be turned off here, "
            "so that no prompt could be continued. Use a tokenizer.json without these tokens in its `post_processor`."
        )
    return opened


def end_token(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The id that ends a text.

    Args:
        tokenizer: Of a model that writes.

    Returns:
        The id.

    Raises:
        CheckpointError: If the tokenizer names none.
    """
    if tokenizer.eos_token_id is None:
        raise CheckpointError(
            f"the tokenizer {getattr(tokenizer, 'name_or_path', '')} names no end token, so that a model could not "
            "learn to stop: name it as eos_token in tokenizer_config.json."
        )
    return int(tokenizer.eos_token_id)


def _described(processor: Any) -> Any:
    from tokenizers import Tokenizer, models

    holder = Tokenizer(models.WordLevel({}, unk_token=""))
    if processor is not None:
        holder.post_processor = processor
    return json.loads(holder.to_str())["post_processor"]


def _rebuilt(description: Any) -> Any:
    from tokenizers import Tokenizer, models

    holder = json.loads(Tokenizer(models.WordLevel({}, unk_token="")).to_str())
    return Tokenizer.from_str(json.dumps({**holder, "post_processor": description})).post_processor


def _open(processor: Any) -> Any:
    # The description of a post-processor, without what it sets behind a text.
    kind = processor["type"] if processor else None
    if kind == "Sequence":
        return {**processor, "processors": [_open(one) for one in processor["processors"]]}
    if kind == "TemplateProcessing":
        return {**processor, **{form: _without_tail(processor[form]) for form in ("single", "pair")}}
    if kind not in {"BertProcessing", "RobertaProcessing"}:
        return processor
    token, number = processor["cls"]
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": name, "type_id": place}} for place, name in enumerate("AB")],
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    }
    if kind == "BertProcessing":
        return template
    offsets = {name: processor[name] for name in ("add_prefix_space", "trim_offsets")}
    return {"type": "Sequence", "processors": [{"type": "ByteLevel", **offsets, "use_regex": True}, template]}


def _without_tail(template: list[dict[str, Any]]) -> list[dict[str, Any]]:
    last = max((place for place, piece in enumerate(template) if "Sequence" in piece), default=-1)
    return template[: last + 1]
