"""The training examples as token ids, and batches of them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from spectral_ft.experiment import Experiment
from spectral_ft.models.checkpoint import Checkpoint

if TYPE_CHECKING:
    import torch

    from spectral_ft.data.tokenised import TokenisedExamples


def tokenised(
    experiment: Experiment, checkpoint: Checkpoint
) -> "tuple[TokenisedExamples, Callable[[list[Any]], dict[str, torch.Tensor]]]":
    """Tokenise.

    Args:
        experiment: Its components.
        checkpoint: Of the base, whose tokenizer is used.

    Returns:
        The examples, and what makes a padded batch of some of them.
    """
    from spectral_ft.data.tokenised import padded_batch, tokenise
    from spectral_ft.models.loading import load_tokenizer

    dataset, source = experiment.dataset, experiment.model
    tokenizer = load_tokenizer(checkpoint.folder, kind=source.kind, trust_remote_code=source.trust_remote_code)
    examples = tokenise(
        dataset.examples(),
        tokenizer,
        kind=source.kind,
        labels=source.labels,
        max_length=dataset.max_length,
        too_long=dataset.too_long,
        train_on_inputs=dataset.train_on_inputs,
    )
    return examples, padded_batch(source.kind, int(tokenizer.pad_token_id))
