"""Keys and values with room for more; oracle: the library's own layer, which copies all for every token."""

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from spectral_ft.evaluation.kv_cache import ROOM, GrowingLayer, growing_cache, joined, repeated
from tests.models.tiny_models import model_of
from tests.oracles import law

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(1, 2 * ROOM)),
        st.tuples(st.just("repeat"), st.integers(1, 2)),
        st.tuples(st.just("keep"), st.integers(1, 3)),
        st.tuples(st.just("order"), st.integers(0, 23)),
    ),
    min_size=1,
    max_size=12,
)


@law
@given(STEPS)
def test_it_holds_what_the_librarys_layer_holds(steps: list[tuple[str, int]]) -> None:
    ours, theirs, rows = GrowingLayer(), DynamicLayer(), 2
    for what, number in [("read", 3), *steps]:
        if what == "read":
            keys, values = torch.randn(rows, 2, number, 4), torch.randn(rows, 2, number, 3)
            found, expected = ours.update(keys, values), theirs.update(keys, values)
            assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
        elif what == "repeat":
            rows *= number
            ours.batch_repeat_interleave(number), theirs.batch_repeat_interleave(number)
        else:
            orders = list(itertools.permutations(range(rows), min(rows, 3)))
            kept = torch.arange(rows)[-number:] if what == "keep" else torch.tensor(orders[number % len(orders)])
            rows = len(kept)
            ours.batch_select_indices(kept), theirs.batch_select_indices(kept)
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal(ours.values, theirs.values)
        assert ours.get_seq_length() == theirs.get_seq_length()


def test_what_is_there_is_copied_once_in_many_tokens() -> None:
    layer, places = GrowingLayer(), set()
    layer.update(torch.randn(2, 2, 100, 4), torch.randn(2, 2, 100, 4))
    for _ in range(3 * ROOM):
        keys, values = layer.update(torch.randn(2, 2, 1, 4), torch.randn(2, 2, 1, 4))
        places.add((keys.data_ptr(), values.data_ptr()))
    assert 1 < len(places) <= 4


def test_rows_that_go_make_no_others_move() -> None:
    layer = GrowingLayer()
    layer.update(torch.randn(5, 2, 9, 4), torch.randn(5, 2, 9, 4))
    before, place = layer.keys.clone(), layer.keys.data_ptr()
    layer.batch_select_indices(torch.tensor([0, 4, 2]))
    assert layer.keys.data_ptr() == place
    assert torch.equal(layer.keys, before[[0, 4, 2]])


def test_a_cache_has_the_layers_of_the_librarys() -> None:
    config = model_of("llama").config
    cache = growing_cache(config)
    assert len(cache.layers) == len(DynamicCache(config=config).layers) == config.num_hidden_layers
    assert len(set(map(id, cache.layers))) == len(cache.layers)
    assert cache.get_seq_length() == 0


def test_rows_are_repeated_and_joined() -> None:
    cache, generator = growing_cache(model_of("llama").config), torch.Generator().manual_seed(0)
    empty = repeated(cache, 3)
    assert (empty.get_seq_length(), len(empty.layers)) == (0, len(cache.layers))
    for place in range(len(cache.layers)):
        cache.update(*(torch.randn(1, 2, 5, 4, generator=generator) for _ in range(2)), place)
    before = [layer.keys.clone() for layer in cache.layers]
    several, others = repeated(cache, 2), repeated(cache, 1)
    for place in range(len(before)):
        several.update(torch.full((2, 2, 2, 4), 2.0), torch.full((2, 2, 2, 4), 2.0), place)
        others.update(torch.ones(1, 2, 1, 4), torch.ones(1, 2, 1, 4), place)
    assert [layer.keys.shape for layer in cache.layers] == [keys.shape for keys in before]
    whole = joined([several, others])
    assert len(whole.layers) == len(before)
    for layer, keys in zip(whole.layers, before, strict=True):
        assert torch.equal(layer.keys[:2, :, :5], keys.expand(2, -1, -1, -1))
        assert torch.equal(layer.keys[2:, :, 1:6], keys)
        assert layer.keys[:, 0, 6, 0].tolist() == layer.values[:, 1, 6, 3].tolist() == [2.0, 2.0, 1.0]
        assert not layer.keys[2, :, 0].any() and not layer.values[2, :, 0].any()
    assert several.get_seq_length() == others.get_seq_length() == 0
