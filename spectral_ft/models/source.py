"""Where a model comes from: a local folder, or the hub."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from spectral_ft.errors import CheckpointError, ConfigError
from spectral_ft.models import tensors, torch_files
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.models.device import Dtype
from spectral_ft.models.kinds import Kind
from spectral_ft.models.tensors import is_safetensors

SMALL = (".json", ".model", ".txt", ".jinja", ".tiktoken")
"""Endings of what describes a model, its tokenizer included."""
WEIGHTS = ((tensors.SINGLE, tensors.INDEX), (torch_files.SINGLE, torch_files.INDEX))
"""One file, or an index and its shards; `.bin` only if there is no safetensors."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class ModelSource:
    """A pretrained model by name, before anything of it is loaded."""

    name: str | None
    id: str | None
    revision: str | None
    path: str | None
    kind: Kind
    labels: list[str] | None
    """Of a classifier, in the order of their ids."""
    dtype: Dtype
    attention: str | None
    """Implementation, as transformers calls it; None: its own choice."""
    trust_remote_code: bool

    def __post_init__(self) -> None:
        """Check that there is a source, and labels where they mean something.

        Raises:
            ConfigError: If neither `id` nor `path` is given, a classifier has no two different labels, or something
                else has labels.
        """
        if not self.id and not self.path:
            raise ConfigError("the model has no source: give model.id=ORGANISATION/NAME or model.path=FOLDER.")
        if self.kind == "classifier" and (self.labels is None or len(set(self.labels)) < max(2, len(self.labels))):
            raise ConfigError(
                f"model.labels={self.labels}: a classifier needs the names of at least two different labels, in the "
                "order of their ids, such as model.labels=[negative,positive]."
            )
        if self.kind != "classifier" and self.labels is not None:
            raise ConfigError(
                f"model.labels={self.labels} means nothing with model.kind={self.kind}: only a classifier has labels. "
                "Leave them out, or set model.kind=classifier."
            )

    @property
    def label(self) -> str:
        """What records and tables call it."""
        return str(self.name or self.id or self.path)

    def locate(self, *, weights: bool = True) -> Checkpoint:
        """The checkpoint's folder; of the hub only the files that are needed, weights in one format.

        Args:
            weights: Whether weights are needed now. Without them a download is small, so that everything else can be
                checked before `complete` fetches them.

        Returns:
            The checkpoint.

        Raises:
            HubError: If the hub cannot be reached or refuses.
            CheckpointError: If the folder is missing or no checkpoint.
        """
        if self.path is not None:
            return self._checkpoint(Path(self.path).expanduser())
        from spectral_ft.hub import download_model

        choose = partial(describing_files, code=self.trust_remote_code)
        found = self._checkpoint(download_model(str(self.id), revision=self.revision, choose=choose))
        return self.complete(found) if weights else found

    def complete(self, checkpoint: Checkpoint) -> Checkpoint:
        """Fetch the weights of a checkpoint that was located without them.

        Args:
            checkpoint: As `locate` gave it.

        Returns:
            The same one with weights, of the same commit.

        Raises:
            HubError: If the hub cannot be reached or refuses.
            CheckpointError: If the repository holds no weights, or lacks a file that its index names.
        """
        if self.path is not None:
            return checkpoint
        from spectral_ft.hub import download_model

        model, commit = str(self.id), checkpoint.folder.name
        folder = download_model(model, revision=commit, choose=partial(weight_files, model=model))
        _, index = WEIGHTS[0] if is_safetensors(folder) else WEIGHTS[1]
        if shards := sorted(set(tensors.index_of(folder / index).values())):
            folder = download_model(model, revision=commit, choose=partial(_shards, shards, model=model, index=index))
        return replace(checkpoint, folder=folder)

    def _checkpoint(self, folder: Path) -> Checkpoint:
        return Checkpoint(folder, kind=self.kind, trust_remote_code=self.trust_remote_code)


def describing_files(names: Sequence[str], *, code: bool) -> list[str]:
    """The files of a repository that describe a model and its tokenizer.

    Args:
        names: All its files.
        code: Whether code that comes with the model will be run.

    Returns:
        Those at its top, but for indices of weights, and the chat templates.
    """
    endings = (*SMALL, ".py") if code else SMALL
    top = [name for name in names if "/" not in name and name.endswith(endings)]
    templates = [name for name in names if name.startswith("additional_chat_templates/")]
    return [name for name in top if not name.endswith(".index.json")] + templates


def weight_files(names: Sequence[str], *, model: str) -> list[str]:
    """The files of a repository that hold its weights, or the index that names them.

    Args:
        names: All its files.
        model: Hub id, for the error.

    Returns:
        One file: safetensors, or `.bin` if there is nothing else.

    Raises:
        CheckpointError: If there are no weights that are read here.
    """
    for single, index in WEIGHTS:
        if found := [name for name in (index, single) if name in names]:
            return found[:1]
    listed = ", ".join(sorted(names)[:8])
    raise CheckpointError(
        f"model {model} holds neither {tensors.SINGLE} nor {torch_files.SINGLE}, in one file or in shards; it holds "
        f"{listed}. Give a model in one of these formats."
    )


def _shards(shards: Sequence[str], names: Sequence[str], *, model: str, index: str) -> list[str]:
    if missing := [name for name in shards if name not in names]:
        raise CheckpointError(
            f"model {model}: its {index} names {missing[0]}, which the repository lacks: set model.revision to a "
            "commit that is whole."
        )
    return [index, *shards]
