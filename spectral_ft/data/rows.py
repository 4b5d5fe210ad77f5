"""One row of a public file to an item: what is asked, what is answered, what is right.

Each function knows the raw form of its data set and the form of LLM-Adapters' copies
(`instruction`, `input`, `output`, `answer`). A missing column raises KeyError, which the reader
turns into a sentence with the file and the row. `choice_rows.py` has the commonsense sets with choices.

Sources of the forms: GSM8K (arXiv:2110.14168), AQuA-RAT (arXiv:1705.04146), MAWPS, SVAMP
(arXiv:2103.07191), BoolQ (arXiv:1905.10044) and their copies in LLM-Adapters (arXiv:2304.01933); SST-2 as in GLUE
(arXiv:1804.07461), IMDb (Maas et al., ACL 2011).
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

Row = Mapping[str, Any]

SENTIMENTS: Mapping[str, str] = {"0": "negative", "1": "positive", "negative": "negative", "positive": "positive"}
"""Label in a file to the name of the class."""

QUESTIONS = ("question", "original_text", "Question", "sentence", "text", "0")
"""Columns that hold what is asked, where it is all that is asked."""


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


def columns(row: Row, *, instruction: str, completion: str) -> Item:
    """Any row, by the names of its columns.

    Args:
        row: The row.
        instruction: Column with the prompt.
        completion: Column with what the model shall answer.

    Returns:
        The item; its answer is the whole completion.
    """
    return Item(str(row[instruction]), str(row[completion]), str(row[completion]))


def instruction(row: Row) -> Item:
    """A row of LLM-Adapters' training files.

    Args:
        row: With instruction, output and maybe answer.

    Returns:
        The item.
    """
    asked = f"{row['instruction']}\n{row['input']}" if row.get("input") else row["instruction"]
    return Item(asked, row["output"], str(row.get("answer", "")))


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
        return instruction(row)
    worked = row["answer"]
    _, mark, final = worked.rpartition("####")
    if not mark:
        raise ValueError("the answer has no '####' before its number")
    final = final.replace(",", "").strip()
    return Item(row["question"], worked, final, {"question": row["question"], "answer": worked})


def aqua(row: Row) -> Item:
    """An algebra problem with five choices.

    Args:
        row: With question, options (`A)...`), rationale and correct, or LLM-Adapters' form.

    Returns:
        The item; its fields are query, choices and gold of the harness's agieval_aqua_rat template,
        where the row is raw.
    """
    if "instruction" in row:
        return instruction(row)
    letters = [option[0] for option in row["options"]]
    texts = [option[2:].strip() for option in row["options"]]
    listed = " ".join(f"({letter}) {text}" for letter, text in zip(letters, texts, strict=True))
    asked = f"{row['question']} Answer Choices: {listed}"
    query = (
        f"Q: {row['question']} Answer Choices: "
        + " ".join(f"({letter}){text}" for letter, text in zip(letters, texts, strict=True))
        + "\nA: Among A through E, the answer is"
    )
    return Item(
        asked,
        f"{row['rationale']} The answer is ({row['correct']}).",
        row["correct"],
        {
            "query": query,
            "choices": [f"({letter}){text}" for letter, text in zip(letters, texts, strict=True)],
            "gold": [letters.index(row["correct"])],
        },
    )


def boolq(row: Row) -> Item:
    """A yes/no question, asked as LLM-Adapters asks it: without its passage.

    Args:
        row: With question, answer (true or false) or label (1 or 0), and maybe its passage, or LLM-Adapters' form.

    Returns:
        The item; its fields are what the harness's boolq template reads, where the row has a passage.

    Raises:
        ValueError: If the answer is no truth value.
    """
    if "instruction" in row:
        return instruction(row)
    said = row["answer"] if "answer" in row else row["label"]
    if said not in {True, False}:  # 1 and 0 are equal to them; the hub's hidden test split has -1
        raise ValueError(f"the answer is {said!r}, neither true nor false")
    truth = "true" if said else "false"
    asked = (
        f"Please answer the following question with true or false, question: {row['question']}?"
        "\n\nAnswer format: true/false"
    )
    shown = {name: row[name] for name in ("passage", "question") if "passage" in row}
    return Item(asked, f"the correct answer is {truth}", truth, {**shown, "label": int(said)} if shown else {})


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
        return instruction(row)
    if "original_text" not in row:
        answer = _short(row["Answer"])
        return Item(_with_numbers(row["Question"], row.get("Numbers")), f"The answer is {answer}.", answer)
    return Item(row["original_text"], f"{row['equation']} The answer is {row['ans']}.", str(row["ans"]))


def svamp(row: Row) -> Item:
    """A short arithmetic problem with a twist.

    Args:
        row: With Body, a question (sQuestion or Question) and a number (lSolutions or Answer), or LLM-Adapters' form.

    Returns:
        The item; its completion is the answer.
    """
    if "instruction" in row:
        return instruction(row)
    body = row["Body"] if row["Body"].endswith(".") else f"{row['Body']}."
    asked = row["sQuestion"] if "sQuestion" in row else row["Question"]
    number = str(row["lSolutions"] if "lSolutions" in row else row["Answer"])
    return Item(f"{body} {asked}", f"The answer is {number}.", number)


def sst2(row: Row) -> Item:
    """A sentence of a film review.

    Args:
        row: With sentence and label (0, 1 or the name), or a line of a file without column names.

    Returns:
        The item: the sentence itself, and the name of its class.
    """
    text, label = (row["0"], row["1"]) if "0" in row else (row["sentence"], row["label"])
    return _sentiment(text, label)


def imdb(row: Row) -> Item:
    """A film review.

    Args:
        row: With text and label (0, 1 or the name).

    Returns:
        The item: the review itself, and the name of its class.
    """
    return _sentiment(row["text"], row["label"])


def asked(row: Row) -> Item:
    """What a row of any form here asks.

    Args:
        row: With instruction, options, or a column of `QUESTIONS`; what it answers does not matter.

    Returns:
        The item, without an answer.

    Raises:
        KeyError: If it has no such column.
        ValueError: If there is no text in it.
    """
    if "instruction" in row:
        text = instruction({"output": "", **row}).instruction
    elif "options" in row:
        text = aqua({"rationale": "", **row}).instruction
    elif isinstance(row.get("answer"), bool):
        text = boolq(row).instruction
    else:
        column = next((name for name in QUESTIONS if name in row), None)
        if column is None:
            raise KeyError(f"instruction, {', '.join(QUESTIONS)}")
        text = row[column]
        if column == "Question" and isinstance(text, str):
            text = _with_numbers(text, row.get("Numbers"))
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is no text")
    return Item(text, "", "")


def _with_numbers(question: str, numbers: object) -> str:
    # MAWPS on the hub: "N_00 cups" and "8.0 4.0".
    values = [] if numbers is None else str(numbers).split()

    def value(placeholder: "re.Match[str]") -> str:
        place = int(placeholder[1])
        if place >= len(values):
            raise ValueError(
                f"the question asks for {placeholder[0]}, and its column Numbers holds {len(values)} numbers"
            )
        return _short(values[place])

    return PLACEHOLDER.sub(value, question)


def _short(number: object) -> str:
    # 8.0 as 8, for that is how the text of the source has it.
    return re.sub(r"\.0+$", "", str(number))


def _sentiment(text: str, label: object) -> Item:
    name = SENTIMENTS.get(str(label))
    if name is None:  # the hub's test splits have -1
        raise ValueError(f"the label is {label!r}, none of {', '.join(SENTIMENTS)}")
    return Item(text.strip(), name, name)
