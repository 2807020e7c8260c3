"""Files in a folder or zip, by their paths inside it."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

_CLUTTER = {"__MACOSX", "Thumbs.db", "desktop.ini"}


class FileTree:
    """Files and folders in a folder, or in a zip that is read in place.

    Hidden files (with a leading dot) and clutter of operating systems are excluded.

    Args:
        root: the folder or zip.

    Attributes:
        root: as given.
        files: paths of all files inside, with forward slashes, sorted.
        folders: paths of all folders inside, with forward slashes, sorted.

    Raises:
        FileNotFoundError: ``root`` does not exist.
        ValueError: ``root`` is neither a folder nor a valid zip.

    Example:
        >>> FileTree("no/such/folder")
        Traceback (most recent call last):
        FileNotFoundError: root='no/such/folder': there is no such folder or zip; check the path
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._archive: zipfile.ZipFile | None = None
        self._owner = -1  # process that opened the archive
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
        """Name of a file in errors: its path, through the zip if there is one."""
        return str(self.root / file)

    def read(self, file: str) -> bytes:
        """Content of a file.

        Raises:
            ValueError: the file cannot be read: damaged in the zip, encrypted, or deleted.
        """
        try:
            if self._is_folder:
                return (self.root / file).read_bytes()
            return self._open_archive().read(file)
        except Exception as error:  # zipfile raises RuntimeError, zlib.error and more
            raise ValueError(f"{self.name(file)!r} cannot be read ({error}); replace or remove it") from error

    def _open_archive(self) -> zipfile.ZipFile:
        # A handle opened before a fork shares its file position with the other process.
        if self._archive is None or self._owner != os.getpid():
            self._archive = zipfile.ZipFile(self.root)
            self._owner = os.getpid()
        return self._archive

    def _list_archive(self) -> tuple[set[str], set[str]]:
        try:
            names = self._open_archive().namelist()
        except zipfile.BadZipFile as error:
            raise ValueError(
                f"root={str(self.root)!r} is neither a folder nor a valid zip ({error}); unpack it or download it again"
            ) from error
        files = {name for name in names if not name.endswith("/")}
        folders = {name.rstrip("/") for name in names if name.endswith("/")}
        # A zip may list files only.
        folders |= {str(parent) for name in names for parent in PurePosixPath(name).parents}
        return files, folders - {"."}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": None}


def _list_folder(root: Path) -> tuple[set[str], set[str]]:
    files: set[str] = set()
    folders: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        inside = Path(folder).relative_to(root)
        files.update((inside / name).as_posix() for name in names)
        folders.update((inside / name).as_posix() for name in subfolders)
    return files, folders


def _visible(path: str) -> bool:
    return not any(part.startswith(".") or part in _CLUTTER for part in path.split("/"))
