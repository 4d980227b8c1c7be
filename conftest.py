"""What all tests share: documents and docstrings are tests too, everything is seeded, and there is no network."""

import ipaddress
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser

os.environ.setdefault("MPLBACKEND", "agg")
_connect, _connect_ex, _lookup = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo


def _allow(host: object) -> None:
    """Raise unless the host is this machine: a test that needs another one is wrong."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost", socket.gethostname()):
        return
    try:
        here = ipaddress.ip_address(str(name)).is_loopback or str(name) == "0.0.0.0"  # noqa: S104
    except ValueError:
        here = False
    if not here:
        raise RuntimeError(f"A test reached for {name!r}: the test run has no network.")


def _guarded_connect(self: socket.socket, address: Any) -> None:
    if self.family in (socket.AF_INET, socket.AF_INET6):
        _allow(address[0])
    return _connect(self, address)


def _guarded_connect_ex(self: socket.socket, address: Any) -> int:
    if self.family in (socket.AF_INET, socket.AF_INET6):
        _allow(address[0])
    return _connect_ex(self, address)


def _guarded_lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
    _allow(host)
    return _lookup(host, *args, **kwargs)


def pytest_configure() -> None:
    """Close the network, for the whole run."""
    socket.socket.connect = _guarded_connect  # type: ignore[method-assign]
    socket.socket.connect_ex = _guarded_connect_ex  # type: ignore[method-assign]
    socket.getaddrinfo = _guarded_lookup


def pytest_unconfigure() -> None:
    """Open it again, for whoever runs pytest inside a program."""
    socket.socket.connect = _connect  # type: ignore[method-assign]
    socket.socket.connect_ex = _connect_ex  # type: ignore[method-assign]
    socket.getaddrinfo = _lookup


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test, docstring and block begins with one seed, so that each can be run alone."""
    torch.manual_seed(0)


class _Elsewhere:
    """Documents run in a folder of their own: what they write, a reader would find in his."""

    def setup(self, namespace: dict[str, Any]) -> None:
        self.back = Path.cwd()
        self.folder = tempfile.TemporaryDirectory()
        os.chdir(self.folder.name)

    def teardown(self, namespace: dict[str, Any]) -> None:
        os.chdir(self.back)
        self.folder.cleanup()


_elsewhere = _Elsewhere()

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md", "docs/*.md", "docs/**/*.md"],
    setup=_elsewhere.setup,
    teardown=_elsewhere.teardown,
    fixtures=["seeded"],
).pytest()

collect_ignore = ["docs/conf.py", "docs/make_pictures.py"]
