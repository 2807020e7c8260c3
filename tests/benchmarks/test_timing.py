import pytest

from benchmarks.timing import ratio, take_turns


def test_candidates_take_turns_after_a_warm_up_that_is_not_counted() -> None:
    calls: list[str] = []
    seconds = take_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert calls == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}
    assert all(value >= 0 for values in seconds.values() for value in values)


def test_ratio_is_taken_round_by_round() -> None:
    # The machine slows tenfold in the last rounds; the ratio does not care.
    found = ratio([2.0, 2.0, 20.0, 20.0, 30.0], [1.0, 1.0, 10.0, 10.0, 10.0])
    assert found.median == 2.0
    assert found.low == 2.0
    assert found.high == pytest.approx(2.5)
    assert str(found) == "2.000 (2.000 to 2.500)"
