"""The loss on rows that are measured and not learnt from: a validation set, or text of the old kind.

    total = sum over batches of loss(batch) * labels(batch),    mean = total / sum of labels

The model's own loss is a mean over its learnt labels: those after the first token of a causal language model, all of
seq2seq, one a row of a classifier. Summed this way, no label weighs more because its batch is small, and the result
does not depend on how rows fall into batches.

The loss is read where the base gives it. PEFT adds a penalty on AdaLoRA's factors to what its wrapper returns, in
evaluation too, which says nothing of the text; only trained prefixes come in through the wrapper.

Known gaps: a mixture of experts that is configured to give the loss of its router (`output_router_logits`) gives it
here too; int8 bases decide by batch which inputs keep their precision, and so depend a little on the batch size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from tqdm import tqdm

from spectral_ft.errors import DataError
from spectral_ft.types import IGNORED

Row = dict[str, Any]


class Loss(NamedTuple):
    """A sum of cross entropies, and of how many."""

    total: float
    """Nats; not finite where the model's loss is not."""
    tokens: int
    """Learnt labels: tokens, or rows of a classifier."""

    @property
    def mean(self) -> float:
        """Nats a label.

        Raises:
            DataError: If there is none.
        """
        if not self.tokens:
            raise DataError("there is no mean loss over 0 learnt labels: give rows with at least one.")
        return self.total / self.tokens


@torch.no_grad()
def mean_loss(
    model: torch.nn.Module,
    rows: Sequence[Row],
    collate: Callable[[list[Row]], dict[str, torch.Tensor]],
    *,
    batch_size: int,
) -> Loss:
    """Measure the loss, leaving the model and every random state as they are.

    Args:
        model: Adapted or not, on one device; in evaluation mode meanwhile.
        rows: input_ids and labels, in any order; those of like length are put together.
        collate: Rows to a batch, padded or laid end to end.
        batch_size: Rows at a time, at least 1.

    Returns:
        The sum and the number of labels; 0 and 0 without rows.
    """
    scorer, base = _scorer_and_base(model)
    device = next(model.parameters()).device
    shifted = not base.config.is_encoder_decoder
    # A cache of keys and values would only take memory, and hide from transformers that rows are laid end to end.
    options = {"use_cache": False} if getattr(base.config, "use_cache", False) else {}
    # The longest first, so that what does not fit is known at once; ties by content, so that the order of rows is no
    # matter.
    by_length = sorted(rows, key=lambda row: (len(row["input_ids"]), row["input_ids"], row["labels"]), reverse=True)
    total, tokens = 0.0, 0
    with evaluating(model), tqdm(total=len(rows), desc="loss", unit="row", leave=False) as bar:
        for start in range(0, len(by_length), batch_size):
            some = by_length[start : start + batch_size]
            batch = {key: value.to(device) for key, value in collate(some).items()}
            if learnt := _learnt(batch["labels"], shifted=shifted):
                total += float(scorer(**batch, **options).loss) * learnt  # in float64
                tokens += learnt
            bar.update(len(some))
    return Loss(total, tokens)


def _scorer_and_base(model: torch.nn.Module) -> tuple[torch.nn.Module, Any]:
    adapter = getattr(model, "active_peft_config", None)
    if adapter is None:
        return model, model
    base = cast(Any, model).get_base_model()
    return (model if adapter.is_prompt_learning else base), base


def _learnt(labels: torch.Tensor, *, shifted: bool) -> int:
    # Over how many labels the model's loss is a mean.
    if labels.ndim == 1:
        return len(labels)
    return int((labels[:, 1:] if shifted else labels).ne(IGNORED).sum())


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode for the time of a block.

    Args:
        model: Every module gets its own mode back: a frozen base may be in another than its adapters.

    Yields:
        Nothing.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
