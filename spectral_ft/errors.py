"""What can be wrong with what a user gave: one root, a child per kind of thing.

Every message says what was wrong, with the name and the number, and what to do.
"""


class SpectralFTError(Exception):
    """Root of all errors that are meant to be read by a user; the entries print it and exit with 1."""


class ConfigError(SpectralFTError):
    """An option, or a combination of options, that cannot be."""


class CheckpointError(SpectralFTError):
    """A model folder, weight or tokenizer that cannot be used."""


class DataError(SpectralFTError):
    """A data file or an example that cannot be used."""


class HubError(SpectralFTError):
    """The hub cannot be reached or refuses."""


class PlanError(SpectralFTError):
    """A policy or plan that does not fit its model."""


class RunError(SpectralFTError):
    """A run folder that is in use, or belongs to another run."""


class Damaged(RunError):  # noqa: N818 - reads as what happened
    """A file of a run that is not what was written."""


class OutOfMemory(SpectralFTError):  # noqa: N818 - reads as what happened
    """A device or the machine has no memory left for what was asked."""


class Interrupted(KeyboardInterrupt):
    """Somebody asked the process to end, by Ctrl-C, SIGTERM or a closed terminal, and it says how to go on."""

    def __init__(self, number: int, sentence: str) -> None:
        """Remember why.

        Args:
            number: Of the signal.
            sentence: What was kept, and how to go on.
        """
        super().__init__(sentence)
        self.number = number
