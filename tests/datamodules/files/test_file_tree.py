import os
import pickle
import zipfile
from pathlib import Path

import pytest

from datamodules.files.file_tree import FileTree

FILES = {"a/one.txt": b"1", "a/deep/two.txt": b"22", "b/three.txt": b"333"}
CLUTTER = {"a/.hidden": b"", ".git/config": b"", "__MACOSX/a/one.txt": b"", "b/Thumbs.db": b""}


@pytest.fixture(params=["folder", "zip", "zip with folders"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> FileTree:
    if request.param == "folder":
        for name, content in (FILES | CLUTTER).items():
            (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / name).write_bytes(content)
        return FileTree(tmp_path / "set")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        if request.param == "zip with folders":
            for folder in ("a/", "a/deep/", "b/"):
                archive.writestr(folder, b"")
        for name, content in (FILES | CLUTTER).items():
            archive.writestr(name, content)
    return FileTree(str(tmp_path / "set.zip"))


def test_a_zip_equals_a_folder(tree: FileTree) -> None:
    assert tree.files == sorted(FILES)
    assert tree.folders == ["a", "a/deep", "b"]
    assert {file: tree.read(file) for file in tree.files} == FILES


def test_empty_folders_count(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("empty/", b"")
    assert FileTree(tmp_path / "set.zip").folders == ["empty"]
    assert FileTree(tmp_path).folders == ["empty"]


def test_other_processes_read_it_too(tree: FileTree) -> None:
    tree.read("a/one.txt")
    assert pickle.loads(pickle.dumps(tree)).read("b/three.txt") == b"333"  # noqa: S301


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_opens_the_zip_again(tree: FileTree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.read("a/one.txt")
    before = tree._archive
    monkeypatch.setattr(os, "getpid", lambda: -2)
    assert tree.read("a/one.txt") == b"1"
    assert before is None or tree._archive is not before


def test_unreadable_files_are_named(tree: FileTree) -> None:
    with pytest.raises(ValueError, match=r"four\.txt' cannot be read"):
        tree.read("b/four.txt")


def test_damage_inside_a_zip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/one.txt", b"sound")
    path.write_bytes(path.read_bytes().replace(b"sound", b"wrong"))
    with pytest.raises(ValueError, match=r"one\.txt' cannot be read \(Bad CRC-32"):
        FileTree(path).read("a/one.txt")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"root='.*gone': there is no such folder or zip"):
        FileTree(tmp_path / "gone")


def test_neither_folder_nor_zip(tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ValueError, match=r"set\.zip' is neither a folder nor a valid zip"):
        FileTree(tmp_path / "set.zip")
