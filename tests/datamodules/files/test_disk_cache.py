import json
import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.files.disk_cache import DiskCache, content_key


def get(folder: Path | None, value: str, made: list[str] | None = None, name: str = "thing") -> str:
    def make() -> str:
        if made is not None:
            made.append(value)
        return value

    return DiskCache(folder).get(name, make, lambda text: json.dumps(text).encode(), json.loads)


class TestDiskCache:
    def test_computes_once(self, tmp_path: Path) -> None:
        made: list[str] = []
        assert [get(tmp_path / "new" / "folder", value, made) for value in ("first", "second")] == ["first", "first"]
        assert made == ["first"]
        assert get(tmp_path / "new" / "folder", "other", name="another") == "other"

    def test_without_a_folder_nothing_is_cached(self) -> None:
        assert [get(None, value) for value in ("first", "second")] == ["first", "second"]

    @pytest.mark.parametrize("position", [0, 20, 33, -1])
    def test_a_flipped_bit_is_detected(self, tmp_path: Path, position: int) -> None:
        get(tmp_path, "sound")
        content = bytearray((tmp_path / "thing").read_bytes())
        content[position] ^= 1
        (tmp_path / "thing").write_bytes(content)
        assert get(tmp_path, "again") == "again"
        assert get(tmp_path, "third") == "again"

    @pytest.mark.parametrize("length", [0, 5, 32, 35])
    def test_a_truncated_file_is_computed_again(self, tmp_path: Path, length: int) -> None:
        get(tmp_path, "sound")
        (tmp_path / "thing").write_bytes((tmp_path / "thing").read_bytes()[:length])
        assert get(tmp_path, "again") == "again"

    def test_invalid_content_is_computed_again(self, tmp_path: Path) -> None:
        DiskCache(tmp_path).get("thing", lambda: b"no json", bytes, bytes)
        assert get(tmp_path, "again") == "again"

    def test_errors_pass_through_and_leave_no_file(self, tmp_path: Path) -> None:
        def fail() -> bytes:
            raise ValueError("no good")

        with pytest.raises(ValueError, match="no good"):
            DiskCache(tmp_path).get("thing", fail, bytes, bytes)
        with pytest.raises(TypeError):
            DiskCache(tmp_path).get("thing", lambda: "text", lambda _: None, str)  # type: ignore[arg-type, return-value]
        assert not list(tmp_path.iterdir())

    def test_several_processes_at_once(self, tmp_path: Path) -> None:
        long = "x" * 100_000
        with multiprocessing.get_context("fork").Pool(4) as pool:
            assert pool.starmap(get, [(tmp_path, long)] * 40) == [long] * 40
        assert [path.name for path in tmp_path.iterdir()] == ["thing"]


@given(st.lists(st.text()), st.lists(st.text()))
def test_keys_are_the_same_for_the_same_texts_only(first: list[str], second: list[str]) -> None:
    assert (content_key(first) == content_key(second)) == (first == second)
