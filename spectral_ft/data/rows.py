"""One row of a public file to an item: what is asked, what is answered, what is right.

Each function knows the raw form of its data set and the form of LLM-Adapters' copies
(`instruction`, `input`, `output`, `answer`). A missing column raises KeyError, which the reader
turns into a sentence with the file and the row. `choice_rows.py` has the commonsense sets with choices.

Nothing becomes text that is not text: a value is a text or a plain number, or it is refused (`text`). Nothing is lost
without a word: a column that holds something and that the recipe does not read is refused (`recipe`), unless the recipe
knows it as no part of the task, or the user lists it in `ignore`.

Sources of the forms: GSM8K (arXiv:2110.14168), AQuA-RAT (arXiv:1705.04146), MAWPS, SVAMP
(arXiv:2103.07191), BoolQ (arXiv:1905.10044) and their copies in LLM-Adapters (arXiv:2304.01933); SST-2 as in GLUE
(arXiv:1804.07461), IMDb (Maas et al., ACL 2011).
"""

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

Row = Mapping[str, Any]

SENTIMENTS: Mapping[str, str] = {"0": "negative", "1": "positive", "negative": "negative", "positive": "positive"}
"""Label in a file to the name of the class."""

QUESTIONS = ("question", "original_text", "Question", "sentence", "text", "0")
"""Columns that hold what is asked, where it is all that is asked."""

IDENTIFIERS = frozenset({"id", "_id", "idx", "index", "ind", "qid", "uid", "uuid", "unnamed: 0", "__index_level_0__"})
"""Columns that number rows and say nothing, in small letters."""

TURNS = (("role", "content"), ("from", "value"))
"""Keys of one message of a chat, in the two forms that are common."""


PLACEHOLDER = re.compile(r"\bN_(\d+)\b")
"""Of a number in a question of MAWPS."""


class Item(NamedTuple):
    """What every data set looks like from here on."""

    instruction: str
    completion: str
    """What the model shall write."""
    answer: str
    """The part of it that is compared."""
    fields: Mapping[str, Any] = MappingProxyType({})
    """What a standard task of the harness needs beyond, by the names of its template."""


class UnreadColumnsError(ValueError):
    """Columns that hold something and that a recipe does not read."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Remember them.

        Args:
            values: Column to what it holds.
        """
        super().__init__(f"nothing reads {_listed_columns(values)}")
        self._values = values

    def sentence(self, option: str) -> str:
        """The fault and the two ways out.

        Args:
            option: The one that holds the recipe's own options, such as `dataset.rows`.

        Returns:
            The sentence, without file and row.
        """
        name, value = next(iter(self._values.items()))
        shown = f"a chat ({described(value)})" if is_chat(value) else _shortened(value)
        names = ", ".join(name if name.isidentifier() else repr(name) for name in self._values)
        return (
            f"nothing reads {_listed_columns(self._values)}; {name!r} holds {shown}. Use it: name it as "
            f"`{option}.instruction`, `.input` or `.completion` (dataset=jsonl). Or leave it out: "
            f"'{option}.ignore=[{names}]'."
        )


class Recipe(Protocol):
    """Makes an item of a row."""

    def __call__(self, row: Row, *, ignore: Sequence[str] = (), **options: Any) -> Item:
        """The item.

        Args:
            row: The row.
            ignore: Columns that are left out, whatever they hold.
            **options: Of the recipe.

        Returns:
            The item.
        """
        ...


class _Reading(Mapping[str, Any]):
    # A row that knows which of its columns were read.

    def __init__(self, row: Row, ignore: Sequence[str]) -> None:
        self._row = row
        self._ignore = frozenset(ignore)
        self._read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        if name in self._ignore:
            raise KeyError(name)
        self._read.add(name)
        return self._row[name]

    def __contains__(self, name: object) -> bool:
        return name in self._row and name not in self._ignore  # to ask is not to read

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._row if name not in self._ignore)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def check(self, known: Sequence[str]) -> None:
        left = [name for name in self if name not in self._read and name not in known]
        rest = {name: self._row[name] for name in left if str(name).lower() not in IDENTIFIERS}
        if rest := {name: value for name, value in rest.items() if not is_blank(value)}:
            raise UnreadColumnsError(rest)


def recipe(*, known: Sequence[str] = ()) -> Callable[[Callable[..., Item]], Recipe]:
    """Make a function of a row into a recipe: what it does not read and is not blank is refused.

    Args:
        known: Columns that belong to the form and are no part of the task.

    Returns:
        The decorator. The recipe has one option more, `ignore`: columns that are left out.
    """

    def decorated(convert: Callable[..., Item]) -> Recipe:
        @functools.wraps(convert)
        def read(row: Row, *, ignore: Sequence[str] = (), **options: Any) -> Item:
            reading = _Reading(row, ignore)
            item = convert(reading, **options)
            reading.check(known)
            return item

        return read

    return decorated


def text(row: Row, column: str) -> str:
    """What a column holds, as text.

    Args:
        row: The row.
        column: One of its columns.

    Returns:
        The text; of a number its digits as Python writes them.

    Raises:
        KeyError: If there is no such column.
        ValueError: If it holds neither a text nor a plain number.
    """
    return as_text(row[column], f"column {column!r}")


def as_text(value: Any, named: str) -> str:
    """A text or a plain number as text.

    Args:
        value: The value.
        named: How an error names it.

    Returns:
        The text.

    Raises:
        ValueError: If it is something else, or a text that cannot be written.
    """
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"{named} holds half of a letter of UTF-16 ({value[error.start]!a} at letter {error.start + 1}), "
                    "which is no text"
                ) from error
        return value
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    raise ValueError(f"{named} holds {described(value)}, which is no text: only texts and plain numbers are")


def texts(value: Any, named: str) -> list[str]:
    """A list of texts.

    Args:
        value: The value.
        named: How an error names it.

    Returns:
        The texts.

    Raises:
        ValueError: If it is no list, or something in it is neither a text nor a plain number.
    """
    if not isinstance(value, list | tuple):
        raise ValueError(f"{named} holds {described(value)}, and must hold a list of texts")
    return [as_text(one, f"{named}, entry {number},") for number, one in enumerate(value, start=1)]


def is_blank(value: Any) -> bool:
    """Whether a value says nothing.

    Args:
        value: Of a column.

    Returns:
        True for null, NaN, an empty list or object, and a text of nothing but spaces.
    """
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip()) or value in ([], {}, ())


def is_chat(value: Any) -> bool:
    """Whether a value is a chat.

    Args:
        value: Of a column.

    Returns:
        True for a list of messages, each with a speaker and a text.
    """
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and any(all(key in turn for key in keys) for keys in TURNS) for turn in value)
    )


def chat_in(row: Row) -> tuple[str, str] | None:
    """The chat that a row holds.

    Args:
        row: The row.

    Returns:
        The column, and what it holds in words; None if there is no chat.
    """
    return next(((name, described(value)) for name, value in row.items() if is_chat(value)), None)


def described(value: Any) -> str:
    """What a value is, in words.

    Args:
        value: Of a column.

    Returns:
        Such as `null`, `NaN` or `a list of 3`.
    """
    if is_chat(value):
        keys = next(keys for keys in TURNS if all(key in value[0] for key in keys))
        return (
            f"a chat of {len(value)} messages with {' and '.join(map(repr, keys))}, and chats are not trained on yet "
            "(write what is asked and what is answered into two columns of text)"
        )
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return f"an object with {', '.join(map(str, list(value)[:4])) or 'nothing'}"
    known = {"None": "null", "True": "the truth value true", "False": "the truth value false", "nan": "NaN"}
    return known.get(repr(value), f"{_shortened(value)} ({type(value).__name__})")


def _shortened(value: Any) -> str:
    written = repr(value)
    return written if len(written) <= 60 else f"{written[:57]}..."


def _listed_columns(values: Mapping[str, Any]) -> str:
    return f"the column{'s' * (len(values) > 1)} {', '.join(map(repr, values))}"


@recipe()
def columns(
    row: Row, *, instruction: str, completion: str, input: str | None = "input", answer: str | None = "answer"
) -> Item:
    """Any row, by the names of its columns.

    Args:
        row: The row.
        instruction: Column with the prompt.
        completion: Column with what the model shall answer.
        input: Column with what the instruction is about, which goes below it; None for none.
        answer: Column with the part of the completion that is compared, if there is one; None for none.

    Returns:
        The item; without an answer of its own the whole completion is compared.
    """
    written = text(row, completion)
    compared = "" if answer is None or answer not in row or is_blank(row[answer]) else text(row, answer)
    return Item(_asked(row, instruction, input), written, compared or written)


def _asked(row: Row, instruction: str, below: str | None) -> str:
    # A column that was named must be there, one of alpaca's form need not.
    if below is None or (below == "input" and below not in row) or is_blank(row[below]):
        return text(row, instruction)
    first = "" if is_blank(row[instruction]) else f"{text(row, instruction)}\n"
    return f"{first}{text(row, below)}"


def copied(row: Row) -> Item:
    """A row of LLM-Adapters' copies, as part of another recipe.

    Args:
        row: With instruction, output and maybe input and answer.

    Returns:
        The item.
    """
    answer = "" if "answer" not in row or is_blank(row["answer"]) else text(row, "answer")
    return Item(_asked(row, "instruction", "input"), text(row, "output"), answer)


@recipe()
def instruction(row: Row) -> Item:
    """A row of LLM-Adapters' training files.

    Args:
        row: With instruction, output and maybe answer.

    Returns:
        The item.
    """
    return copied(row)


@recipe()
def gsm8k(row: Row) -> Item:
    """A grade-school problem.

    Args:
        row: With question and answer (`... #### N`), or LLM-Adapters' form.

    Returns:
        The item; its fields are what the harness's gsm8k template reads, where the row is raw.

    Raises:
        ValueError: If the answer does not end in `#### N`.
    """
    if "instruction" in row:
        return copied(row)
    worked, question = text(row, "answer"), text(row, "question")
    _, mark, final = worked.rpartition("####")
    if not mark:
        raise ValueError("the answer has no '####' before its number")
    final = final.replace(",", "").strip()
    return Item(question, worked, final, {"question": question, "answer": worked})


@recipe()
def aqua(row: Row) -> Item:
    """An algebra problem with five choices.

    Args:
        row: With question, options (`A)...`), rationale and correct, or LLM-Adapters' form.

    Returns:
        The item; its fields are query, choices and gold of the harness's agieval_aqua_rat template,
        where the row is raw.
    """
    return copied(row) if "instruction" in row else _aqua(row)


def _aqua(row: Row) -> Item:
    question, rationale, correct = (text(row, name) for name in ("question", "rationale", "correct"))
    options = texts(row["options"], "column 'options'")
    letters = [option[0] for option in options]
    choices = [option[2:].strip() for option in options]
    listed = " ".join(f"({letter}) {choice}" for letter, choice in zip(letters, choices, strict=True))
    asked = f"{question} Answer Choices: {listed}"
    query = (
        f"Q: {question} Answer Choices: "
        + " ".join(f"({letter}){choice}" for letter, choice in zip(letters, choices, strict=True))
        + "\nA: Among A through E, the answer is"
    )
    return Item(
        asked,
        f"{rationale} The answer is ({correct}).",
        correct,
        {
            "query": query,
            "choices": [f"({letter}){choice}" for letter, choice in zip(letters, choices, strict=True)],
            "gold": [letters.index(correct)],
        },
    )


@recipe(known=("title",))
def boolq(row: Row) -> Item:
    """A yes/no question, asked as LLM-Adapters asks it: without its passage.

    Args:
        row: With question, answer (true or false) or label (1 or 0), and maybe its passage, or LLM-Adapters' form.

    Returns:
        The item; its fields are what the harness's boolq template reads, where the row has a passage.

    Raises:
        ValueError: If the answer is no truth value.
    """
    return copied(row) if "instruction" in row else _boolq(row)


def _boolq(row: Row) -> Item:
    said = row["answer"] if "answer" in row else row["label"]
    if isinstance(said, str):  # of a file with nothing but texts
        said = {"true": True, "false": False, "1": True, "0": False}.get(said.strip().lower(), said)
    if not isinstance(said, int | float) or said not in {0, 1}:  # the hub's hidden test split has -1
        raise ValueError(f"the answer is {said!r}, neither true nor false")
    truth = "true" if said else "false"
    asked = (
        f"Please answer the following question with true or false, question: {text(row, 'question')}?"
        "\n\nAnswer format: true/false"
    )
    shown = {name: text(row, name) for name in ("passage", "question") if "passage" in row}
    return Item(asked, f"the correct answer is {truth}", truth, {**shown, "label": int(said)} if shown else {})


@recipe(known=("segmented_text", "Numbers", "Equation", "group_nums", "Body", "Ques_Statement", "Grade", "Type"))
def mawps(row: Row) -> Item:
    """A short arithmetic problem.

    Args:
        row: With original_text, equation and ans, or Question, Numbers and Answer as on the hub, where `N_00` in a
            question stands for the first of the numbers, or LLM-Adapters' form.

    Returns:
        The item; its completion is the equation, if there is one, and the answer.

    Raises:
        ValueError: If the question has a placeholder for which the row has no number.
    """
    if "instruction" in row:
        return copied(row)
    if "original_text" not in row:
        answer = _short(text(row, "Answer"))
        return Item(_with_numbers(text(row, "Question"), row), f"The answer is {answer}.", answer)
    number = text(row, "ans")
    return Item(text(row, "original_text"), f"{text(row, 'equation')} The answer is {number}.", number)


@recipe(known=("Equation", "Type", "question_concat"))
def svamp(row: Row) -> Item:
    """A short arithmetic problem with a twist.

    Args:
        row: With Body, a question (sQuestion or Question) and a number (lSolutions or Answer), or LLM-Adapters' form.

    Returns:
        The item; its completion is the answer.
    """
    if "instruction" in row:
        return copied(row)
    body = text(row, "Body")
    body = body if body.endswith(".") else f"{body}."
    asked = text(row, "sQuestion" if "sQuestion" in row else "Question")
    number = text(row, "lSolutions" if "lSolutions" in row else "Answer")
    return Item(f"{body} {asked}", f"The answer is {number}.", number)


@recipe()
def sst2(row: Row) -> Item:
    """A sentence of a film review.

    Args:
        row: With sentence and label (0, 1 or the name), or a line of a file without column names.

    Returns:
        The item: the sentence itself, and the name of its class.
    """
    return _sentiment(row, *(("0", "1") if "0" in row else ("sentence", "label")))


@recipe()
def imdb(row: Row) -> Item:
    """A film review.

    Args:
        row: With text and label (0, 1 or the name).

    Returns:
        The item: the review itself, and the name of its class.
    """
    return _sentiment(row, "text", "label")


def asked(row: Row) -> Item:
    """What a row of any form here asks.

    Args:
        row: With instruction, options, or a column of `QUESTIONS`; what it answers does not matter.

    Returns:
        The item, without an answer.

    Raises:
        KeyError: If it has no such column.
    """
    if "instruction" in row:
        return Item(_asked(row, "instruction", "input"), "", "")
    if "options" in row:
        return Item(_aqua({"rationale": "", **row}).instruction, "", "")
    if isinstance(row.get("answer"), bool):
        return Item(_boolq(row).instruction, "", "")
    column = next((name for name in QUESTIONS if name in row), None)
    if column is None:
        raise KeyError(f"instruction, {', '.join(QUESTIONS)}")
    question = text(row, column)
    return Item(_with_numbers(question, row) if column == "Question" else question, "", "")


def _with_numbers(question: str, row: Row) -> str:
    # MAWPS on the hub: "N_00 cups" and "8.0 4.0".
    values = [] if "Numbers" not in row or is_blank(row["Numbers"]) else text(row, "Numbers").split()

    def value(placeholder: "re.Match[str]") -> str:
        place = int(placeholder[1])
        if place >= len(values):
            raise ValueError(
                f"the question asks for {placeholder[0]}, and its column Numbers holds {len(values)} numbers"
            )
        return _short(values[place])

    return PLACEHOLDER.sub(value, question)


def _short(number: str) -> str:
    # 8.0 as 8, for that is how the text of the source has it.
    return re.sub(r"\.0+$", "", number)


def _sentiment(row: Row, column: str, labels: str) -> Item:
    written, label = text(row, column), row[labels]
    name = SENTIMENTS.get(str(label))
    if name is None:  # the hub's test splits have -1
        raise ValueError(f"the label is {label!r}, none of {', '.join(SENTIMENTS)}")
    return Item(written.strip(), name, name)
