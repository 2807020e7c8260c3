"""Cache of results in files, safe for several processes."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")

_DIGEST = hashlib.sha256().digest_size


def content_key(parts: Iterable[str]) -> str:
    """Key of a sequence of texts: equal for equal texts in the same order only.

    Example:
        >>> content_key(["ab", "c"]) == content_key(["a", "bc"])
        False
    """
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8")
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()[:32]


class DiskCache:
    """Folder of results in files named by a key of their inputs.

    Files are written atomically, so processes that compute the same result at the same time only waste time. A file
    starts with a checksum of the rest; damaged files are computed again.

    Args:
        folder: folder of the files, created if necessary; with ``None``, nothing is cached.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     cache = DiskCache(folder)
        ...     [cache.get("answer", lambda: text, str.encode, bytes.decode) for text in ("42", "other")]
        ['42', '42']
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = None if folder is None else Path(folder)

    def get(
        self, name: str, make: Callable[[], Value], dump: Callable[[Value], bytes], load: Callable[[bytes], Value]
    ) -> Value:
        """Reads a result from its file; computes and writes it if there is no valid file.

        Args:
            name: name of the file, with a key of all inputs, see :func:`content_key`.
            make: computes the result.
            dump: converts a result to bytes.
            load: converts bytes to a result; may raise ValueError, ImportError or AttributeError for invalid ones.
        """
        if self.folder is None:
            return make()
        path = self.folder / name
        try:
            content = path.read_bytes()
            if hashlib.sha256(content[_DIGEST:]).digest() == content[:_DIGEST]:
                return load(content[_DIGEST:])
        except (FileNotFoundError, ValueError, ImportError, AttributeError):
            pass  # computed again
        value = make()
        self._write(path, dump(value))
        return value

    @staticmethod
    def _write(path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, scratch = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(hashlib.sha256(content).digest() + content)
            os.replace(scratch, path)
        except BaseException:
            Path(scratch).unlink(missing_ok=True)
            raise
