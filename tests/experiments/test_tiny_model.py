"""The embedded model's text and skill; oracles: the equations in the text, held-out operands."""

import random
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from spectral_ft.data.wordmath import FRAMES, split_of_pair
from tests.conftest import EMBEDDED, REPOSITORY


@pytest.fixture(scope="module")
def scripts(request: pytest.FixtureRequest) -> tuple[ModuleType, ModuleType]:
    """`language` and `pretrain`, which are scripts and not a package."""
    sys.path.insert(0, str(REPOSITORY / "experiments" / "tiny_model"))
    request.addfinalizer(lambda: sys.path.pop(0))
    import language
    import pretrain

    return language, pretrain


@pytest.mark.parametrize("phase", ["facts", "problems", "recall"])
def test_no_text_holds_operands_of_another_split(phase: str, scripts: tuple[ModuleType, ModuleType]) -> None:
    rng = random.Random(0)
    texts = [scripts[0].document(rng, phase) for _ in range(3000)]
    steps = [match for text in texts for match in re.findall(r"(\d{2})([+-])(\d{2})=(\d{2})", text)]
    pairs = [(int(a), int(b)) if sign == "+" else (int(b), int(c)) for a, sign, b, c in steps]
    assert len(pairs) > 500
    assert {split_of_pair(*pair) for pair in pairs} == {"train"}


def test_no_text_holds_a_frame_of_the_unseen_family(scripts: tuple[ModuleType, ModuleType]) -> None:
    rng = random.Random(0)
    patterns = [re.compile(re.sub(r"\\{\w+\\}", r"\\w+", re.escape(frame))) for frame in FRAMES]
    assert patterns[0].search("Mia packs 84 lamps, drops 61 and then bakes 30. What remains?")
    texts = [scripts[0].document(rng, phase) for phase in ("problems", "recall") for _ in range(3000)]
    assert not [text for text in texts if any(pattern.search(text) for pattern in patterns)]


def test_the_base_is_competent_on_its_own_family(scripts: tuple[ModuleType, ModuleType], monkeypatch) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, pretrain = scripts
    monkeypatch.setattr(pretrain, "ITEMS", 100)
    model = AutoModelForCausalLM.from_pretrained(Path(EMBEDDED), dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    for family in ("equations", "word problems"):
        assert pretrain.exact_match(model, tokenizer, family) >= 0.7
