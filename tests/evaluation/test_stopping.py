"""When a text that is written ends; oracle: the harness's own wrapper, item by item and one at a time."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from spectral_ft.evaluation.language_model import CheckedModel
from spectral_ft.evaluation.responses import Responses
from spectral_ft.evaluation.stopping import StopsByRow
from tests.evaluation.small_tasks import small_llama
from tests.oracles import law

MODEL, TOKENIZER = small_llama(64)
PROMPTS = [f"{n} plus {n * n} is" for n in range(8)]
LENGTH = 40


def asked(lm: HFLM, stop: list[str]) -> list[str]:
    settings = {"until": stop, "max_gen_toks": LENGTH, "do_sample": False}
    return lm.generate_until(
        [Instance("generate_until", {}, (prompt, dict(settings)), n) for n, prompt in enumerate(PROMPTS)],
        disable_tqdm=True,
    )


def ours(folder: Path, batch: int) -> CheckedModel:
    responses = Responses(folder / f"{batch}.sqlite", task="texts")
    return CheckedModel(
        MODEL, TOKENIZER, responses, task="texts", kind="causal_lm", batch_size=batch, largest_batch=8, context=64
    )  # fmt: skip


def endings() -> dict[int, str]:
    """Of some texts, by their place, something that stands in no other one and not at their beginning."""
    whole = asked(HFLM(pretrained=MODEL, tokenizer=TOKENIZER, batch_size=1, max_length=64), [])
    found = {}
    for place, text in enumerate(whole):
        pieces = (text[at : at + 4] for at in range(3 + place, len(text) // 2))
        own = next((piece for piece in pieces if not any(piece in other for other in whole if other != text)), None)
        found |= {place: own} if own and whole.count(text) == 1 else {}
    return found


def test_answers_are_those_of_one_at_a_time(tmp_path: Path) -> None:
    stop = list(endings().values())
    expected = asked(HFLM(pretrained=MODEL, tokenizer=TOKENIZER, batch_size=1, max_length=64), stop)
    assert len({len(text) for text in expected}) > 2
    for batch in (1, 3, 8):
        assert asked(ours(tmp_path, batch), stop) == expected


def test_rows_that_end_differently_keep_nobody_going(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stops = endings()
    monkeypatch.setattr(f"{__name__}.PROMPTS", [PROMPTS[place] for place in stops])
    stop = list(stops.values())
    steps: list[int] = []
    handle = MODEL.register_forward_hook(lambda *_: steps.append(1))
    asked(HFLM(pretrained=MODEL, tokenizer=TOKENIZER, batch_size=8, max_length=64), stop)
    theirs = len(steps)
    asked(ours(tmp_path, 8), stop)
    handle.remove()
    assert len(stops) > 2 and theirs == LENGTH and len(steps) - theirs < LENGTH


@law
@given(st.lists(st.text("abc d", max_size=12), min_size=1, max_size=4), st.sampled_from(["ab", "c d", "ddd", "a"]))
def test_a_row_is_done_where_its_own_text_holds_the_sequence(texts: list[str], stop: str) -> None:
    rows = TOKENIZER(texts, add_special_tokens=False)["input_ids"]
    longest = 1 + max(map(len, rows))
    after = TOKENIZER.encode("z", add_special_tokens=False)[:1] * longest  # of no sequence
    prompt = TOKENIZER.encode(stop, add_special_tokens=False)  # which is not looked at
    ids = torch.tensor([[*prompt, *(row + after)[:longest]] for row in rows])
    criterion = StopsByRow(TOKENIZER, [stop], begin=len(prompt))
    done = torch.zeros(len(rows), dtype=torch.bool)
    for end in range(len(prompt) + 1, ids.shape[1] + 1):  # token by token, as it is called
        done |= criterion(ids[:, :end], torch.zeros(0))
    assert done.tolist() == [stop in TOKENIZER.decode(row) for row in rows]
