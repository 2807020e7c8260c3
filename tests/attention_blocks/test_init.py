import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

import attention_blocks

PACKAGE = Path(attention_blocks.__file__).parent
TESTS = Path(__file__).parent
NAMES = attention_blocks.__all__
PARTS = [
    attention_blocks.feature_maps,
    attention_blocks.positions,
    attention_blocks.sequence,
    attention_blocks.transformer,
]


def test_names_are_listed_once_and_exist() -> None:
    assert sorted(set(NAMES)) == list(NAMES)
    for part in PARTS:
        assert set(part.__all__) <= set(NAMES)
        assert all(getattr(part, name) is getattr(attention_blocks, name) for name in part.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_documented(name: str) -> None:
    thing = getattr(attention_blocks, name)
    text = inspect.getdoc(thing) or ""
    assert text.splitlines()[0].endswith((".", ":")), "one line says what it is"
    if inspect.isfunction(thing) or issubclass(thing, nn.Module):
        assert ">>> " in text, "an example shows how to call it"


@pytest.mark.parametrize(
    "file",
    [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"],
    ids=lambda path: path.relative_to(PACKAGE).as_posix(),
)
def test_every_file_has_its_tests(file: Path) -> None:
    mirrored = TESTS / file.relative_to(PACKAGE).with_name(f"test_{file.name}")
    assert mirrored.is_file(), f"write {mirrored.relative_to(TESTS.parent.parent)}"


@pytest.mark.slow
def test_import_needs_nothing_but_torch() -> None:
    code = "import sys, torch; before = set(sys.modules); import attention_blocks; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    new = {name.partition(".")[0] for name in done.stdout.split()}
    assert "attention_blocks" in new
    ours_and_torch = {"attention_blocks", "torch", *sys.stdlib_module_names}
    assert new <= ours_and_torch, "importing the blocks must not import anything but torch and the standard library"
