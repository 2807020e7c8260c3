"""A folder or a zip as one thing: its files by their paths inside it."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

_CLUTTER = {"__MACOSX", "Thumbs.db", "desktop.ini"}


class FileTree:
    """The files and folders below a folder, or inside a zip, which is read in place.

    What is hidden (its name starts with a dot) is left out, and so is what systems litter folders with.

    Args:
        root: the folder or the zip.

    Attributes:
        root: as given.
        files: paths of all files inside, with forward slashes, sorted.
        folders: paths of all folders inside, likewise.

    Raises:
        FileNotFoundError: there is nothing at ``root``.
        ValueError: it is neither a folder nor a sound zip.

    Example:
        >>> FileTree("no/such/folder")
        Traceback (most recent call last):
        FileNotFoundError: root='no/such/folder': there is no such folder or zip; check the path
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._archive: zipfile.ZipFile | None = None
        self._owner = -1  # the process that opened the archive
        self._is_folder = self.root.is_dir()
        if self._is_folder:
            files, folders = _list_folder(self.root)
        elif self.root.exists():
            files, folders = self._list_archive()
        else:
            raise FileNotFoundError(f"root={str(root)!r}: there is no such folder or zip; check the path")
        self.files = sorted(path for path in files if _visible(path))
        self.folders = sorted(path for path in folders if _visible(path))

    def name(self, file: str) -> str:
        """What to call a file in an error: its path, through the zip if there is one."""
        return str(self.root / file)

    def read(self, file: str) -> bytes:
        """All bytes of a file.

        Raises:
            ValueError: it cannot be read: damaged in the zip, encrypted, or no longer there.
        """
        try:
            if self._is_folder:
                return (self.root / file).read_bytes()
            return self._open_archive().read(file)
        except Exception as error:  # zipfile raises RuntimeError, zlib.error and more
            raise ValueError(f"{self.name(file)!r} cannot be read ({error}); replace it or leave it out") from error

    def _open_archive(self) -> zipfile.ZipFile:
        # A handle that was opened before a fork shares its position with the other processes.
        if self._archive is None or self._owner != os.getpid():
            self._archive = zipfile.ZipFile(self.root)
            self._owner = os.getpid()
        return self._archive

    def _list_archive(self) -> tuple[set[str], set[str]]:
        try:
            names = self._open_archive().namelist()
        except zipfile.BadZipFile as error:
            raise ValueError(
                f"root={str(self.root)!r} is neither a folder nor a sound zip ({error}); unpack it, or fetch it again"
            ) from error
        files = {name for name in names if not name.endswith("/")}
        folders = {name.rstrip("/") for name in names if name.endswith("/")}
        # Zips may name files only.
        folders |= {str(parent) for name in names for parent in PurePosixPath(name).parents}
        return files, folders - {"."}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": None}


def _list_folder(root: Path) -> tuple[set[str], set[str]]:
    files: set[str] = set()
    folders: set[str] = set()
    for place, subfolders, names in os.walk(root, followlinks=True):
        inside = Path(place).relative_to(root)
        files.update((inside / name).as_posix() for name in names)
        folders.update((inside / name).as_posix() for name in subfolders)
    return files, folders


def _visible(path: str) -> bool:
    return not any(part.startswith(".") or part in _CLUTTER for part in path.split("/"))
