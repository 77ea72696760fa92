"""A migration's ssh whose other end is gone: real processes and sockets, the peer's word made up."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from xenhelper import halfopen
from xenhelper.errors import PeerUnreachable, UsageError
from xenhelper.peer import client

RECEIVER = """
import subprocess, socket, sys
link = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
code = "import sys; print(repr(sys.stdin.read()), flush=True)"
words = ["xl", "-c", code, "migrate-receive"]
xl = subprocess.Popen(words, executable=sys.argv[2], stdin=subprocess.PIPE)
xl.stdin.write(b"GO"); xl.stdin.flush()
xl.wait()
"""


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], socket.socket]]:
    """An sshd with a connection to us, and below it an xl that waits for its input."""
    for name in ("sshd-session", "xl"):
        (tmp_path / name).symlink_to(sys.executable)
    with socket.create_server(("127.0.0.1", 0)) as server:
        process = subprocess.Popen(
            [tmp_path / "sshd-session", "-c", RECEIVER, str(server.getsockname()[1]), str(tmp_path / "xl")],
            stdout=subprocess.PIPE,
            text=True,
        )
        ours, _ = server.accept()
        with ours:
            yield process, ours
        process.kill()
        process.communicate()


def answers(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The peer's word; None: it doesn't answer. What it was asked."""
    asked: list[dict[str, Any]] = []

    def ask(peer: str, verb: str, args: dict[str, Any], timeout: float) -> dict[str, Any]:
        asked.append({"peer": peer, "verb": verb, **args})
        if answer is None:
            raise PeerUnreachable("bob doesn't answer")
        return answer

    monkeypatch.setattr(client, "ask", ask)
    monkeypatch.setattr(halfopen, "_local", lambda address: False)
    return asked


def found(pid: int) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if any(number == pid for number, _ in halfopen._connections()):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    "answer", [{"mine": True, "open": True}, {"mine": False, "open": False}, {}, {"mine": 1, "open": 0}, None]
)
def test_only_an_end_that_is_known_to_be_gone_counts(
    receiver: Any, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any] | None
) -> None:
    process, ours = receiver
    asked = answers(monkeypatch, answer)
    assert found(process.pid)
    assert halfopen.drop(["bob"]) == []
    assert process.poll() is None
    here, there = ours.getsockname()[1], ours.getpeername()[1]
    assert asked == [{"peer": "bob", "verb": "connection", "address": "127.0.0.1", "port": here, "to": there}]


def test_what_had_arrived_is_read_before_xl_sees_the_end(
    receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, _ = receiver
    answers(monkeypatch, {"mine": True, "open": False})
    assert found(process.pid)
    assert len(halfopen.drop(["bob"], dry_run=True)) == 1 and process.poll() is None
    (line,) = halfopen.drop(["bob"])
    assert f"pid {process.pid}" in line and "bob" in line
    assert process.wait(10) < 0
    assert process.stdout is not None and process.stdout.readline() == "'GO'\n"
    assert halfopen.drop(["bob"]) == []


def test_an_address_that_is_here_too_tells_nothing(receiver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    process, _ = receiver
    assert found(process.pid)
    asked = answers(monkeypatch, {"mine": True, "open": False})
    monkeypatch.undo()  # 127.0.0.1 is ours
    assert halfopen.drop(["bob"]) == [] and asked == [] and process.poll() is None


def test_the_peers_side_of_it(receiver: Any) -> None:
    _, ours = receiver
    here, there = ours.getsockname()[1], ours.getpeername()[1]
    args = {"address": "127.0.0.1", "port": here, "to": there}
    assert halfopen.serve_connection("bob", args) == {"mine": True, "open": True}
    assert halfopen.serve_connection("bob", {**args, "to": 1}) == {"mine": True, "open": False}
    elsewhere = {**args, "address": "192.0.2.1"}
    assert halfopen.serve_connection("bob", elsewhere) == {"mine": False, "open": False}
    for odd in ("", "bob", "127.0.0.1 ", "::g"):
        with pytest.raises(UsageError):
            halfopen.serve_connection("bob", {**args, "address": odd})


def test_a_sender_is_the_ssh_below_xl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ssh", "xl"):
        (tmp_path / name).symlink_to(sys.executable)
    ssh = "import socket, sys, time; s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))"
    ssh += "; time.sleep(60)"
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = "import subprocess, sys; subprocess.run([sys.argv[4], '-c', *sys.argv[5:]])"
        words = ["xl", "-c", code, "migrate", "web1", "bob", str(tmp_path / "ssh"), ssh]
        process = subprocess.Popen([*words, str(server.getsockname()[1])], executable=tmp_path / "xl")
        ours, _ = server.accept()
        with ours:
            end = time.monotonic() + 10
            while not halfopen._connections() and time.monotonic() < end:
                time.sleep(0.05)
            ((pid, connection),) = halfopen._connections()
            assert pid != process.pid and connection.remote == ours.getsockname()
            answers(monkeypatch, {"mine": True, "open": False})
            assert len(halfopen.drop(["alice", "bob"])) == 1
            assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("0100007F:0016", ("127.0.0.1", 22)),
        ("0000000000000000FFFF00000100007F:1F90", ("127.0.0.1", 8080)),
        ("00000000000000000000000001000000:0016", ("::1", 22)),
    ],
)
def test_addresses_of_proc(text: str, end: tuple[str, int]) -> None:
    assert halfopen._end_of(text) == end


def test_an_ended_process_is_nothing() -> None:
    assert halfopen._stat(2**22 + 1) == ("", 0) and halfopen._sockets(2**22 + 1) == set()
    assert halfopen._stat(os.getpid())[1] == os.getppid()
