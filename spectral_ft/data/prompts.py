"""Prompt templates. The published training and evaluation templates differ; both are here.

Source: LLM-Adapters, arXiv:2304.01933, `finetune.py` and `evaluate.py`: training has two spaces
after "request." and a line of 16 spaces before the response mark, evaluation one space and an
empty line; the heading, the instruction and the response mark are indented by 16 spaces.
"""

from collections.abc import Callable, Mapping

INDENT = " " * 16
OPENING = "Below is an instruction that describes a task. Write a response that appropriately completes the request."


def alpaca(instruction: str) -> str:
    """The published training prompt.

    Args:
        instruction: What is asked.

    Returns:
        The prompt, up to where the response begins.
    """
    return f"{OPENING}  \n\n{INDENT}### Instruction:\n{INDENT}{instruction}\n{INDENT}\n{INDENT}### Response:\n{INDENT}"


def alpaca_evaluation(instruction: str) -> str:
    """The published evaluation prompt.

    Args:
        instruction: What is asked.

    Returns:
        The prompt, up to where the response begins.
    """
    return f"{OPENING} \n\n{INDENT}### Instruction:\n{INDENT}{instruction}\n\n{INDENT}### Response:\n{INDENT}"


def question(instruction: str) -> str:
    """The prompt of the harness's gsm8k task.

    Args:
        instruction: What is asked.

    Returns:
        The prompt.
    """
    return f"Question: {instruction}\nAnswer:"


def plain(instruction: str) -> str:
    """The instruction itself.

    Args:
        instruction: What is asked.

    Returns:
        The same.
    """
    return instruction


TEMPLATES: Mapping[str, Callable[[str], str]] = {"alpaca": alpaca, "question": question, "plain": plain}
"""By the name that `dataset.prompt` takes."""
