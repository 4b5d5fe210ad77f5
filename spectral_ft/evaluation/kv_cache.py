"""What a model keeps of the tokens it has read, with room for the next ones.

The library's cache copies all keys and values of all rows for every token that is written. With sixteen rows of a
thousand tokens these copies cost a CPU a quarter to a half of a step, and most of that in asking the system for memory.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 128
"""Tokens that are made room for at a time."""


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer, which are copied once in `ROOM` tokens."""

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__()
        self._rooms: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write behind what is there.

        Args:
            key_states: Of shape (rows, heads, tokens, width).
            value_states: Likewise; its width may be another.
            *args: Not used.
            **kwargs: Not used.

        Returns:
            Keys and values of all tokens, views of a larger memory.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if self._rooms is None or after > self._rooms[0].shape[-2]:
            self._rooms = _roomier(self.keys, key_states), _roomier(self.values, value_states)
        keys, values = self._rooms
        keys[..., before:after, :], values[..., before:after, :] = key_states, value_states
        self._hold(keys, values, after)
        return keys[..., :after, :], values[..., :after, :]

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._rooms = None

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row several times.

        Args:
            repeats: How often.
        """
        super().batch_repeat_interleave(repeats)
        self._rooms = None

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Some of the rows; where none comes before its own place, within the memory that there is.

        Args:
            indices: Which, in their new order.
        """
        rows = indices.tolist()
        if self._rooms is None or any(row < place for place, row in enumerate(rows)):
            super().batch_select_indices(indices)
            self._rooms = None
            return
        kept = self.get_seq_length()
        for place, row in enumerate(rows):
            if row != place:
                for room in self._rooms:
                    room[place, :, :kept] = room[row, :, :kept]
        self._hold(self._rooms[0][: len(rows)], self._rooms[1][: len(rows)], kept)

    def hold_rows(self, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
        """Begin with the rows of others.

        Args:
            keys: Each of shape (rows, heads, tokens, width).
            values: Likewise.
        """
        self.lazy_initialization(keys[0], values[0])
        self._hold(_below_each_other(keys), _below_each_other(values), max(part.shape[-2] for part in keys))

    def _hold(self, keys: torch.Tensor, values: torch.Tensor, kept: int) -> None:
        self._rooms = keys, values
        self.keys, self.values = keys[..., :kept, :], values[..., :kept, :]


def growing_cache(config: Any) -> DynamicCache:
    """An empty cache.

    Args:
        config: Of a model whose layers all keep all tokens.

    Returns:
        One with as many layers as the library's own has for this model.
    """
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() for _ in cache.layers]
    return cache


def repeated(cache: DynamicCache, rows: int) -> DynamicCache:
    """The same text in several rows.

    Args:
        cache: Of one row, which stays as it is; one that is empty is empty in all rows.
        rows: How many.

    Returns:
        A cache of its own.
    """
    layers = []
    for layer in _layers(cache):
        layers.append(GrowingLayer())
        if layer.is_initialized:
            layers[-1].update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1))
    return _with_layers(cache, layers)


def joined(caches: Sequence[DynamicCache]) -> DynamicCache:
    """Rows below each other.

    Args:
        caches: They are emptied, layer by layer, so that little is held twice.

    Returns:
        All of their rows; those of fewer tokens have zeros before them, which a mask must hide.
    """
    layers = []
    for parts in zip(*(_layers(cache) for cache in caches), strict=True):
        layers.append(GrowingLayer())
        layers[-1].hold_rows([part.keys for part in parts], [part.values for part in parts])
        for part in parts:
            part.reset()
    return _with_layers(caches[0], layers)


def _layers(cache: DynamicCache) -> list[Any]:
    return cache.layers  # of whatever kind as far as their declaration goes


def _with_layers(like: DynamicCache, layers: Sequence[GrowingLayer]) -> DynamicCache:
    other = copy.copy(like)
    other.layers = [*layers]
    return other


def _roomier(old: torch.Tensor | None, new: torch.Tensor) -> torch.Tensor:
    before = 0 if old is None or not old.numel() else old.shape[-2]
    room = new.new_empty(*new.shape[:2], before + new.shape[2] + ROOM, new.shape[3])
    if old is not None and before:
        room[..., :before, :] = old
    return room


def _below_each_other(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    heads, tokens, width = parts[0].shape[1], max(part.shape[2] for part in parts), parts[0].shape[3]
    sizes = [len(part) for part in parts]
    room = parts[0].new_empty(sum(sizes), heads, tokens + ROOM, width)
    for rows, part in zip(room.split(sizes), parts, strict=True):
        before = tokens - part.shape[2]
        rows[:, :, :before] = 0
        rows[:, :, before:tokens] = part
    return room
