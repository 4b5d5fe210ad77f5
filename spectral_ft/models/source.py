"""Where a model comes from: a local folder, or the hub."""

from pathlib import Path

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from spectral_ft.errors import ConfigError
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.models.device import Dtype
from spectral_ft.models.kinds import Kind

FILES = ["*.safetensors", "*.json", "*.model", "*.txt", "*.py"]
"""What is taken from the hub: no pickles."""


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
        if self.id is None and self.path is None:
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

    def locate(self) -> Checkpoint:
        """The checkpoint's folder, downloaded first where it comes from the hub.

        Returns:
            The checkpoint.

        Raises:
            HubError: If the hub cannot be reached or refuses.
            CheckpointError: If the folder is missing or no checkpoint.
        """
        if self.path is not None:
            return Checkpoint(Path(self.path).expanduser())
        from spectral_ft.hub import download_model

        return Checkpoint(download_model(str(self.id), revision=self.revision, patterns=FILES))
