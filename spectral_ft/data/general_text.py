"""Text of the kind that a model learnt before it was fine-tuned: the loss on it tells what was forgotten.

The perplexity protocol of language models: documents are joined with the end token into one stream, which is cut into
adjacent sequences, without overlap. A model that has read short documents only, one at a time, takes them one at a
time here too: joined, the embedded model's loss is 4.6 nats a token instead of 0.7, and tells of nothing but the
strange context.

Known gaps: a sequence that begins within a document begins without the tokenizer's beginning mark; the loss of a
token depends on the tokenizer, so that models are compared with their own base and not with one another.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.data.dataset import HubSplit
from spectral_ft.data.files import FORMATS, file_format, iterate_rows, read_text
from spectral_ft.data.rows import described, text
from spectral_ft.end_marks import end_token, open_ended
from spectral_ft.errors import CheckpointError, ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = dict[str, Any]
PARAGRAPHS = ".txt"
READ = (PARAGRAPHS, *FORMATS)
"""Endings of the files that are read here."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class NoText:
    """No general text: nothing is measured."""

    def check_source(self) -> None:
        """There is nothing to look for."""

    def documents(self) -> list[str]:
        """The documents.

        Returns:
            None of them.
        """
        return []

    def rows(self, tokenizer: "PreTrainedTokenizerBase") -> list[Row]:
        """The documents as token ids.

        Args:
            tokenizer: Not used.

        Returns:
            No row.
        """
        del tokenizer
        return []


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class GeneralText:
    """A file or hub data set of documents, and how much of it is read in which pieces."""

    path: str | None
    """Local file, used instead of the hub: `.txt` with blank lines between documents, or rows."""
    hub: HubSplit | None
    column: str
    """Of a row, the one that holds its document."""
    join: bool
    max_tokens: Annotated[int, Field(ge=2)]
    sequence_length: Annotated[int, Field(ge=2)]

    def __post_init__(self) -> None:
        """Check that there is a source that can be read.

        Raises:
            ConfigError: If neither a file nor a hub id is given, or the file is of no kind that is read here.
        """
        if self.path is None and self.hub is None:
            raise ConfigError("general_text has no source: give general_text.path=FILE, or general_text=none.")
        if self.path is not None and (named := file_format(Path(self.path))) not in READ:
            raise ConfigError(f"general_text.path={self.path} ends in {named!r}: give a file in {', '.join(READ)}.")

    def check_source(self) -> None:
        """Look for the local file without reading it, or fetch what the hub has.

        Raises:
            DataError: If the file is missing.
            HubError: If the hub is needed and cannot be reached.
        """
        if self.path is not None:
            _existing(self.path)
        else:
            self.documents()  # the library keeps them: reading them again costs little

    def documents(self) -> list[str]:
        """The documents, those that are blank left out.

        Returns:
            At least one text.

        Raises:
            DataError: If the file is missing, empty or cannot be read, or a row has no text in the column.
            HubError: If the hub is needed and cannot be reached.
        """
        found, source = self._texts()
        documents = [text for text in found if text.strip()]
        if not documents:
            raise DataError(f"general_text: {source} holds 0 documents that are not blank: give another file.")
        return documents

    def rows(self, tokenizer: "PreTrainedTokenizerBase") -> list[Row]:
        """The documents as token ids.

        Args:
            tokenizer: Of a causal language model.

        Returns:
            As `text_rows` makes them.

        Raises:
            DataError: If the documents cannot be read, or are too short.
            HubError: If the hub is needed and cannot be reached.
            CheckpointError: If the tokenizer has no end token.
        """
        return text_rows(
            self.documents(),
            tokenizer,
            join=self.join,
            sequence_length=self.sequence_length,
            max_tokens=self.max_tokens,
        )

    def _texts(self) -> tuple[list[str], str]:
        # And whence they come.
        if self.path is not None:
            path = _existing(self.path)
            if file_format(path) == PARAGRAPHS:
                return _paragraphs(path), str(path)
            return _column(iterate_rows(path), self.column, source=str(path)), str(path)
        from spectral_ft.hub import download_rows

        hub: Any = self.hub  # checked at construction
        rows = download_rows(hub.id, name=hub.name, split=hub.split, override="general_text.path=FILE")
        return _column(rows, self.column, source=hub.id), hub.id


def text_rows(
    documents: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    join: bool,
    sequence_length: int,
    max_tokens: int,
) -> list[Row]:
    """Documents as sequences that a causal language model is scored on, every token but the first of each.

    Args:
        documents: Texts.
        tokenizer: With an end token, which is set after every document.
        join: Cut all documents as one stream; otherwise a sequence holds one document or a piece of it.
        sequence_length: Longest sequence, in tokens.
        max_tokens: Most tokens of all sequences; what is beyond is not read.

    Returns:
        input_ids and labels, which are the same; a piece of less than 2 tokens is left out.

    Raises:
        CheckpointError: If the tokenizer has no end token.
        DataError: If no sequence is left.
    """
    if tokenizer.eos_token_id is None:
        raise CheckpointError(
            "general_text needs a tokenizer with an end token, which the model's has not: use general_text=none."
        )
    end, tokenizer = end_token(tokenizer), open_ended(tokenizer)
    streams: list[list[int]] = [[]] if join else []
    room = max_tokens
    for document in documents:
        if room <= 0:
            break
        ids = list(tokenizer(document, verbose=False)["input_ids"])
        whole = (ids if ids[-1:] == [end] else [*ids, end])[:room]
        room -= len(whole)
        streams[0].extend(whole) if join else streams.append(whole)
    pieces = [
        stream[start : start + sequence_length]
        for stream in streams
        for start in range(0, len(stream), sequence_length)
    ]
    rows = [{"input_ids": piece, "labels": list(piece)} for piece in pieces if len(piece) > 1]
    if not rows:
        raise DataError(
            f"general_text: {len(documents)} documents make no sequence of 2 tokens or more: give more text."
        )
    return rows


def _existing(path: str) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"general_text.path={path} is no file: give a file in {', '.join(READ)}.")
    return file


def _paragraphs(path: Path) -> list[str]:
    return [part.strip("\n") for part in re.split(r"\n[^\S\n]*\n", read_text(path))]


def _column(rows: Iterable[Row], column: str, *, source: str) -> list[str]:
    found = []
    for number, row in enumerate(rows, start=1):
        try:
            if not isinstance(row[column], str):
                raise ValueError(f"column {column!r} holds {described(row[column])}, not a text")
            found.append(text(row, column))
        except KeyError as error:
            raise DataError(
                f"{source}, row {number}: no column {column!r}; its columns are {', '.join(row)}. Set "
                "general_text.column."
            ) from error
        except ValueError as error:
            raise DataError(f"{source}, row {number}: {error}. Set general_text.column.") from error
    return found
