"""Files that are either there whole or not at all, and files that one process holds."""

from pathlib import Path
from typing import IO

__all__ = ["taken", "write_whole"]


def write_whole(path: str | Path, content: bytes | str) -> Path:
    """Write under a temporary name beside it, then rename; folders are made.

    Args:
        path: Where the file stands afterwards; an older one is replaced at once.
        content: Bytes, or text to be stored as UTF-8.

    Raises:
        OSError: If the disk is full or the folder cannot be written; an older file is then untouched.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(Path(folder) / "a" / "b.txt", "whole").read_text()
        'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return path


def taken(file: IO[str]) -> bool:
    """Hold an open file for this process until it is closed, and say whether that worked.

    Always true where the system or the file system knows no such locks.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
