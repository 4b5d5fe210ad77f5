"""One row of a public multiple-choice file to an item, asked as LLM-Adapters asks it.

Each function knows the raw form of its data set, as the hub has it, and the form of LLM-Adapters' copies. The fields
of an item are the raw columns that the harness's own task reads. Answers are named, not lettered: `answer3`.

Sources of the forms: ARC (arXiv:1803.05457), OpenBookQA (arXiv:1809.02789), PIQA (arXiv:1911.11641), SIQA
(arXiv:1904.09728), HellaSwag (arXiv:1905.07830), WinoGrande (arXiv:1907.10641), and their copies in LLM-Adapters
(arXiv:2304.01933).
"""

from collections.abc import Mapping, Sequence

from spectral_ft.data.rows import Item, Row, copied, described, recipe, text, texts


@recipe()
def arc(row: Row) -> Item:
    """A science question with three to five choices.

    Args:
        row: With question, choices (text and label) and answerKey, or LLM-Adapters' form.

    Returns:
        The item.
    """
    return copied(row) if "instruction" in row else _labelled(row, "question")


@recipe(known=("fact1", "humanScore", "clarity", "turkIdAnonymized"))
def openbookqa(row: Row) -> Item:
    """A science question with four choices, without its book.

    Args:
        row: With question_stem, choices (text and label) and answerKey, or LLM-Adapters' form.

    Returns:
        The item.
    """
    return copied(row) if "instruction" in row else _labelled(row, "question_stem")


@recipe()
def piqa(row: Row) -> Item:
    """A goal and two ways to it.

    Args:
        row: With goal, sol1, sol2 and label (0 or 1), or LLM-Adapters' form.

    Returns:
        The item.
    """
    if "instruction" in row:
        return copied(row)
    shown = {name: text(row, name) for name in ("goal", "sol1", "sol2")}
    return _choice(
        f"Please choose the correct solution to the question: {shown['goal']}",
        "solution",
        [shown["sol1"], shown["sol2"]],
        right=_whole(row["label"]),
        fields={**shown, "label": _whole(row["label"])},
        between="\n\n",
    )


@recipe(known=("promptDim", "promptQuestionFocus"))
def siqa(row: Row) -> Item:
    """A situation, a question about it and three answers.

    Args:
        row: With context, question, answerA, answerB, answerC and label (1 to 3), or LLM-Adapters' form.

    Returns:
        The item.
    """
    if "instruction" in row:
        return copied(row)
    shown = {name: text(row, name) for name in ("context", "question", "answerA", "answerB", "answerC")}
    asked = f"Please choose the correct answer to the question: {shown['context']} {shown['question']}"
    answers = [shown[f"answer{letter}"] for letter in "ABC"]
    fields = {**shown, "label": str(row["label"])}
    return _choice(asked, "answer", answers, right=_whole(row["label"]) - 1, fields=fields)


@recipe(known=("source_id", "split", "split_type"))
def hellaswag(row: Row) -> Item:
    """A beginning and four endings.

    Args:
        row: With activity_label, ctx, ctx_a, ctx_b, endings and label (0 to 3), or LLM-Adapters' form.

    Returns:
        The item.
    """
    if "instruction" in row:
        return copied(row)
    begun = f"{text(row, 'activity_label')}: {text(row, 'ctx')}"
    asked = f"Please choose the correct ending to complete the given sentence: {begun}"
    shown = {name: text(row, name) for name in ("activity_label", "ctx_a", "ctx_b")}
    endings = texts(row["endings"], "column 'endings'")
    fields = {**shown, "endings": endings, "label": str(row["label"])}
    return _choice(asked, "ending", endings, right=_whole(row["label"]), fields=fields)


@recipe(known=("qID",))
def winogrande(row: Row) -> Item:
    """A sentence with a blank and two words for it.

    Args:
        row: With sentence, option1, option2 and answer (1 or 2), or LLM-Adapters' form.

    Returns:
        The item.
    """
    if "instruction" in row:
        return copied(row)
    shown = {name: text(row, name) for name in ("sentence", "option1", "option2")}
    asked = f"Please choose the correct answer to fill in the blank to complete the given sentence: {shown['sentence']}"
    fields = {**shown, "answer": str(row["answer"])}
    right = _whole(row["answer"]) - 1
    return _choice(
        asked, "option", [shown["option1"], shown["option2"]], right=right, fields=fields, behind=" "
    )  # only here no empty line


def _labelled(row: Row, question: str) -> Item:
    choices, asked, key = row["choices"], text(row, question), text(row, "answerKey").strip()
    if not isinstance(choices, Mapping):
        raise ValueError(f"column 'choices' holds {described(choices)}, and must hold an object with text and label")
    labels, answers = (texts(choices[name], f"column 'choices', {name}") for name in ("label", "text"))
    if key not in labels:
        raise ValueError(f"the answer is {key!r}, none of {', '.join(labels)}")
    fields = {question: asked, "choices": {"text": answers, "label": labels}, "answerKey": key}
    begun = f"Please choose the correct answer to the question: {asked}"
    return _choice(begun, "answer", answers, right=labels.index(key), fields=fields)


def _choice(
    asked: str,
    word: str,
    answers: Sequence[str],
    *,
    right: int,
    fields: Row,
    between: str = " ",
    behind: str = "\n\n",
) -> Item:
    # As LLM-Adapters writes it: `Answer1: ... Answer2: ...`, then the words that may be answered.
    if not 0 <= right < len(answers):
        raise ValueError(f"the label names choice {right + 1} of {len(answers)}")
    numbers = range(1, len(answers) + 1)
    listed = between.join(f"{word.capitalize()}{number}: {one}" for number, one in zip(numbers, answers, strict=True))
    words = "/".join(f"{word}{number}" for number in numbers)
    answer = f"{word}{right + 1}"
    return Item(f"{asked}\n\n{listed}{behind}Answer format: {words}", f"the correct answer is {answer}", answer, fields)


def _whole(label: object) -> int:
    # The hub's hidden test splits have an empty label, -1, or none.
    if not str(label).strip().isdigit():
        raise ValueError(f"the label is {label!r}, no number of a choice")
    return int(str(label))
