"""The examples of the training task as token ids, and batches of them."""

import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from spectral_ft.experiment import Experiment
from spectral_ft.fingerprint import cache_home, path_fingerprint, text_fingerprint
from spectral_ft.machine import package_versions
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.stages.overlap import training_overlap

if TYPE_CHECKING:
    import torch

    from spectral_ft.data.tokenised import TokenisedExamples

log = logging.getLogger(__name__)
Collate = Callable[[list[Any]], "dict[str, torch.Tensor]"]


LONGEST = 1_500
"""Letters of the first example in the log; of a longer one the middle is left out."""
TOKENIZER_FILES = (
    "tokenizer", "special_tokens_map", "added_tokens", "vocab", "merges", "spiece", "spm", "chat_template",
    "additional_chat_templates",
)  # fmt: skip
"""How their names begin."""


class Tokenised(NamedTuple):
    """What is trained on and what is held out."""

    training: "TokenisedExamples"
    validation: "TokenisedExamples | None"
    """None where nothing is held out."""
    general: list[dict[str, Any]]
    """Rows of text that has nothing to do with the task; none where forgetting is not measured."""
    collate: Collate
    """Rows to a padded batch."""
    named: Callable[[int], str]
    """A training example by its place: the row of the data set, from 0, and how its prompt begins."""


def tokenised(experiment: Experiment, checkpoint: Checkpoint, folder: Path) -> Tokenised:
    """Tokenise what is left when test items are dropped.

    Args:
        experiment: Its components.
        checkpoint: Of the base, whose tokenizer is used.
        folder: Of the run, where it says which rows are test items.

    Returns:
        The examples, and what makes a padded batch of some of them.
    """
    from spectral_ft.data.collation import padded_batch
    from spectral_ft.data.token_cache import cached_tokenise
    from spectral_ft.data.tokenised import SHOWN, marked, row_of
    from spectral_ft.models.loading import load_tokenizer

    dataset, source = experiment.dataset, experiment.model
    tokenizer = load_tokenizer(checkpoint.folder, kind=source.kind, trust_remote_code=source.trust_remote_code)

    def rows(examples: list[Any]) -> "TokenisedExamples":
        return cached_tokenise(
            examples,
            tokenizer,
            cache=cache_home() / "tokens",
            tokenizer_fingerprint=tokenizer_fingerprint(checkpoint),
            kind=source.kind,
            labels=source.labels,
            max_length=dataset.max_length,
            too_long=dataset.too_long,
            train_on_inputs=dataset.train_on_inputs,
        )

    left_out = training_overlap(experiment, folder).left_out
    held_out = dataset.validation_examples(left_out)
    texts = dataset.examples(left_out)
    training = rows(texts)
    sources = [row_of(texts, place) for place in training.places]

    def named(place: int) -> str:
        begins = tokenizer.decode(training[place]["input_ids"], skip_special_tokens=True)
        return f"{sources[place]} ({begins[:SHOWN]!r})"

    if training.dropped:
        log.warning(
            "left out %d of %d training examples, %s dataset.max_length=%d tokens",
            training.dropped,
            len(training) + training.dropped,
            "which are longer than" if dataset.too_long == "drop" else "whose completions begin beyond",
            dataset.max_length,
        )
    _show_once(marked(training[0], tokenizer, labels=source.labels))
    return Tokenised(
        training,
        rows(held_out) if held_out else None,
        experiment.general_text.rows(tokenizer),
        padded_batch(source.kind, int(tokenizer.pad_token_id)),
        named,
    )


@cache
def _show_once(example: str) -> None:
    # Though several stages read the examples. The end is where the answer is.
    short = example if len(example) <= LONGEST else f"{example[: LONGEST // 3]} ... {example[-2 * LONGEST // 3 :]}"
    log.info("the first training example, with its loss on what is between [[ and ]]: %r", short)


def tokenizer_fingerprint(checkpoint: Checkpoint) -> str:
    """Digest of what makes text into tokens, and a chat into text.

    Args:
        checkpoint: With the tokenizer's files.

    Returns:
        32 hexadecimal digits, of the files and of the packages that read them.
    """
    files = sorted(path for path in checkpoint.folder.iterdir() if path.name.startswith(TOKENIZER_FILES))
    versions = package_versions()
    parts = [f"{path.name} {path_fingerprint(path)}" for path in files]  # several chat templates are a folder
    return text_fingerprint(
        "\n".join([*parts, *(f"{name} {versions.get(name)}" for name in ("transformers", "tokenizers"))])
    )
