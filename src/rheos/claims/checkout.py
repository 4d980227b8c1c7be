"""Where the source is, if this package runs from its source, and what state it is in."""

import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["commit", "cores", "root", "versions", "write"]

PACKAGES = ("rheos", "torch", "numpy", "scipy", "POT", "scikit-learn")


def root() -> Path | None:
    """The checkout this package is imported from, or None when it is installed elsewhere."""
    folder = Path(__file__).resolve().parents[3]
    return folder if (folder / "pyproject.toml").is_file() and (folder / "src" / "rheos").is_dir() else None


def commit(folder: Path | None = None) -> str:
    """The commit of a checkout, with "+" when tracked files differ from it; "unknown" without one."""
    folder = folder or root()
    if folder is None:
        return "unknown"
    head = _git(folder, "rev-parse", "--short=12", "HEAD")
    if not head:
        return "unknown"
    return head + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no", "--", "src") else "")


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603
            ("git", "--no-optional-locks", *arguments),  # noqa: S607
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def versions() -> dict[str, str]:
    """Of Python and of what figures may depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def write(path: Path, content: bytes) -> None:
    """Write under a temporary name, then rename: a reader sees the old file or the new one.

    Raises:
        RunError: If it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        from rheos.core.errors import RunError

        raise RunError(f"{path} cannot be written: {error.strerror or error}.", path=path) from error
