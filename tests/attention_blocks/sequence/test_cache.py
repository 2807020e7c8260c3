from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_blocks import Cache, Memory, Past


@settings(deadline=None, max_examples=30)
@given(pieces=st.lists(st.integers(1, 5), min_size=1, max_size=8), capacity=st.integers(1, 12), heads=st.booleans())
def test_holds_what_was_appended(pieces: list[int], capacity: int, heads: bool) -> None:
    shape = (2, 3) if heads else (2,)
    parts = [Memory(torch.randn(*shape, length, 4), torch.randn(*shape, length, 5)) for length in pieces]
    cache = Cache.start(parts[0], capacity)
    for part in parts[1:]:
        cache = cache.append(part)
    assert cache.length == sum(pieces)
    assert torch.equal(cache.memory.key, torch.cat([part.key for part in parts], dim=-2))
    assert torch.equal(cache.memory.value, torch.cat([part.value for part in parts], dim=-2))


def test_spare_room_is_used_without_copying() -> None:
    cache = Cache.start(Memory(torch.randn(2, 1, 4), torch.randn(2, 1, 4)), capacity=8)
    later = cache.append(Memory(torch.randn(2, 7, 4), torch.randn(2, 7, 4)))
    assert later.key.data_ptr() == cache.key.data_ptr()
    full = later.append(Memory(torch.randn(2, 1, 4), torch.randn(2, 1, 4)))
    assert full.key.data_ptr() != later.key.data_ptr()
    assert full.key.size(-2) == 2 * full.length


def test_does_not_change_the_memory_it_starts_from() -> None:
    memory = Memory(torch.ones(1, 1, 2), torch.ones(1, 1, 2))
    cache = Cache.start(memory)
    cache.memory.key.zero_()
    assert torch.equal(memory.key, torch.ones(1, 1, 2))


@settings(deadline=None, max_examples=30)
@given(
    positions=st.lists(st.integers(0, 4), max_size=7),
    room=st.integers(0, 3),
    heads=st.booleans(),
)
def test_selects_entries_in_a_new_order(positions: list[int], room: int, heads: bool) -> None:
    shape = (2, 3) if heads else (2,)
    memory = Memory(torch.randn(*shape, 5, 4), torch.randn(*shape, 5, 6))
    chosen = torch.tensor([positions, positions[::-1]], dtype=torch.int64)
    cache = Cache.start(memory, capacity=9)
    selected = cache.select(chosen, room)
    for part, whole in zip(selected.memory, memory, strict=True):
        assert torch.equal(part, torch.stack([row[..., its, :] for row, its in zip(whole, chosen, strict=True)]))
    later = Memory(torch.randn(*shape, room, 4), torch.randn(*shape, room, 6))
    grown = selected.append(later)
    assert grown.key.data_ptr() == selected.key.data_ptr()
    assert torch.equal(grown.memory.value[..., len(positions) :, :], later.value)
    assert torch.equal(cache.memory.key, memory.key)


def test_a_past_is_a_memory_with_a_position() -> None:
    key, value = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 6)
    past = Past(key, value, 9)
    assert isinstance(past.memory, Memory)
    assert past.memory.key is key
    assert past.memory.value is value
    assert past == (key, value, 9)
