"""No network: the test run refuses it, and the package has no line that would use it unasked."""

import ast
import socket
from pathlib import Path

import pytest

import rheos

HOME = Path(rheos.__file__).parent
NETWORK = {"aiohttp", "ftplib", "http", "httpx", "huggingface_hub", "requests", "socket", "urllib", "urllib3"}


def test_a_connection_to_another_machine_is_refused() -> None:
    with socket.socket() as s, pytest.raises(RuntimeError, match="no network"):
        s.connect(("192.0.2.1", 80))  # an address that is reserved for documentation
    with socket.socket(socket.AF_INET6) as s, pytest.raises(RuntimeError, match="no network"):
        s.connect_ex(("2001:db8::1", 80))


def test_looking_up_another_machine_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"'example\.org'.*no network"):
        socket.create_connection(("example.org", 443), timeout=1)


def test_this_machine_can_be_reached() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(("localhost", server.getsockname()[1]), timeout=5) as client,
    ):
        client.sendall(b"x")
        with server.accept()[0] as peer:
            assert peer.recv(1) == b"x"


def test_no_module_imports_a_network_library() -> None:
    """Hub sets go through `datasets`, which is imported only after `download=True`; see tests/data/test_loading.py."""
    found = []
    for path in HOME.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{path.name}: {name}" for name in names if name.split(".")[0] in NETWORK]
    assert found == []
