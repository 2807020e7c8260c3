"""What was costly to make, kept in files that several processes can read and write at once."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

Made = TypeVar("Made")

_DIGEST = hashlib.sha256().digest_size


def content_key(parts: Iterable[str]) -> str:
    """A name for some texts: the same for the same texts in the same order, and for nothing else.

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
    """A folder of files that are named by what their content was made from.

    A file appears whole or not at all, so processes that make the same thing at the same time only waste their time. A
    file begins with the checksum of the rest: a damaged one is made again.

    Args:
        folder: is made if need be; with ``None`` nothing is kept.

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
        self, name: str, make: Callable[[], Made], dump: Callable[[Made], bytes], load: Callable[[bytes], Made]
    ) -> Made:
        """What the file of this name holds, or, where there is no sound one, what is made now and written there.

        Args:
            name: of the file; must tell apart what differs, see :func:`content_key`.
            make: makes it anew.
            dump: as bytes.
            load: from bytes; may raise ValueError, ImportError or AttributeError for what it cannot use.
        """
        if self.folder is None:
            return make()
        path = self.folder / name
        try:
            content = path.read_bytes()
            if hashlib.sha256(content[_DIGEST:]).digest() == content[:_DIGEST]:
                return load(content[_DIGEST:])
        except (FileNotFoundError, ValueError, ImportError, AttributeError):
            pass  # then it is made again
        made = make()
        self._write(path, dump(made))
        return made

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
