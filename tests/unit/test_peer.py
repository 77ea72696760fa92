"""The channel over real processes and sockets; only ssh is left out."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.unit import peer_fixture
from xenhelper import dead, paths, run
from xenhelper.errors import EXIT_REFUSED, PeerFailed, PeerUnreachable, UsageError, XenhelperError
from xenhelper.peer import client, link, messages, oneshot

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "RUN", str(tmp_path))
    code = tmp_path / "code.py"
    code.touch()
    environment = dict(run.ENV, PYTHONPATH=str(REPOSITORY), FAKE_CODE=str(code), FAKE_RUN=str(tmp_path))
    monkeypatch.setattr(run, "ENV", environment)


Start = Callable[[Callable[[], list[str]]], None]


def _listens(path: str) -> bool:
    # the file is there before listen(), and a connect is refused until then
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(path)
        except OSError:
            return False
    return True


@pytest.fixture
def start() -> Iterator[Start]:
    """Run a link in a thread until the test ends."""
    stops: list[Callable[[], None]] = []

    def begin(command: Callable[[], list[str]]) -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(link.Link("bob", command).serve())

        def body() -> None:
            try:
                loop.run_until_complete(task)
            except asyncio.CancelledError:
                loop.run_until_complete(asyncio.sleep(0.05))

        thread = threading.Thread(target=body)
        thread.start()

        def stop() -> None:
            loop.call_soon_threadsafe(task.cancel)
            thread.join()
            loop.close()

        stops.append(stop)
        deadline = time.monotonic() + 10
        while not _listens(messages.socket_path("bob")) and time.monotonic() < deadline:
            time.sleep(0.01)

    yield begin
    for stop in stops:
        stop()


def _until(over: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not over() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert over()


def test_whoever_speaks_isnt_dead(start: Start) -> None:
    """A connection, from here or from there, ends what a takeover noted of the other end."""
    for peer in ("alice", "bob"):
        dead.note(peer, "an operator's word")
    start(peer_fixture.command)  # the link speaks with bob, whose server takes it for alice
    client.ask("bob", "echo", {"text": "x"})
    assert not dead.holds("alice") and not dead.holds("bob")
    for peer in ("alice", "bob"):
        dead.note(peer, "an operator's word, once more")
    client.ask("bob", "echo", {"text": "x"})
    _until(lambda: not dead.holds("alice") and not dead.holds("bob"))


def test_answers_share_one_resident_server(start: Start) -> None:
    start(peer_fixture.command)
    first = client.ask("bob", "echo", {"text": "é\n"})
    second = client.ask("bob", "echo", {"text": "2"})
    assert (first["peer"], first["text"]) == ("alice", "é\n")
    assert first["pid"] == second["pid"]


def test_socket_is_roots_only(start: Start) -> None:
    start(peer_fixture.command)
    assert os.stat(messages.socket_path("bob")).st_mode & 0o777 == 0o600


def test_refusal_keeps_line_and_exit_code(start: Start) -> None:
    start(peer_fixture.command)
    with pytest.raises(PeerFailed) as caught:
        client.ask("bob", "refuse", {})
    assert str(caught.value) == "web1 runs here; destroy it first"
    assert caught.value.exit_code == EXIT_REFUSED


@pytest.mark.parametrize(
    ("verb", "args", "said"),
    [
        ("rm -rf /", {}, "no request 'rm -rf /'"),
        ("echo", {}, "'text' is missing"),
        ("echo", {"text": 1}, "wrong type"),
        ("echo", {"text": "a", "more": 1}, "unknown argument 'more'"),
        ("sleep", {"seconds": True}, "wrong type"),
        ("bug", {}, "ZeroDivisionError"),
        ("big", {"size": messages.MAX_BYTES}, "too long"),
    ],
)
def test_wrong_requests_fail_alone(start: Start, verb: str, args: dict[str, object], said: str) -> None:
    start(peer_fixture.command)
    with pytest.raises(PeerFailed, match=said):
        client.ask("bob", verb, args)
    assert client.ask("bob", "echo", {"text": "still here"})["text"] == "still here"


def test_oversize_request_never_leaves(start: Start) -> None:
    start(peer_fixture.command)
    with pytest.raises(XenhelperError, match="too long"):
        client.ask("bob", "echo", {"text": "x" * messages.MAX_BYTES})
    nearly = "x" * (messages.MAX_BYTES - 400)
    assert client.ask("bob", "echo", {"text": nearly})["text"] == nearly


def test_slow_request_keeps_to_the_askers_time_and_holds_up_nobody(start: Start) -> None:
    start(peer_fixture.command)
    client.ask("bob", "echo", {"text": "warm"})
    with ThreadPoolExecutor() as pool:
        began = time.monotonic()
        slow = pool.submit(client.ask, "bob", "sleep", {"seconds": 5}, 1.0)
        assert client.ask("bob", "echo", {"text": "quick"})["text"] == "quick"
        assert time.monotonic() - began < 0.9
        with pytest.raises(PeerUnreachable, match="no answer"):
            slow.result()
        assert time.monotonic() - began < 1.5


def test_twenty_at_once(start: Start) -> None:
    start(peer_fixture.command)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda n: client.ask("bob", "echo", {"text": str(n)}), range(20)))
    assert [answer["text"] for answer in answers] == [str(n) for n in range(20)]


def test_connection_lost_with_a_request_on_its_way_fails_at_once(start: Start) -> None:
    start(peer_fixture.command)
    client.ask("bob", "echo", {"text": "warm"})
    began = time.monotonic()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.ask, "bob", "sleep", {"seconds": 20}, 30.0)
        time.sleep(0.2)
        with pytest.raises(PeerUnreachable):
            client.ask("bob", "die", {})
        with pytest.raises(PeerUnreachable):
            waiting.result()
    assert time.monotonic() - began < 4
    assert client.ask("bob", "echo", {"text": "back"}, 10.0)["text"] == "back"


def test_dead_peer_is_named_with_sshs_reason(start: Start) -> None:
    start(lambda: ["sh", "-c", "echo 'ssh: connect to host bob port 22: No route' >&2; exit 255"])
    began = time.monotonic()
    with pytest.raises(PeerUnreachable, match="No route"):
        client.ask("bob", "hello", {}, 8.0)
    assert time.monotonic() - began < 4


def test_silent_peer_costs_the_askers_time_only(start: Start) -> None:
    start(lambda: ["sleep", "60"])
    began = time.monotonic()
    with pytest.raises(PeerUnreachable):
        client.ask("bob", "hello", {}, 1.0)
    assert 0.7 < time.monotonic() - began < 1.5


@pytest.mark.parametrize("noise", ["'x' * 300000", "'{\"id\": 0}'", "'{nonsense'"])
def test_garbage_instead_of_a_greeting(start: Start, noise: str) -> None:
    start(lambda: [sys.executable, "-c", f"import time; print({noise}, flush=True); time.sleep(60)"])
    with pytest.raises(PeerUnreachable, match="nonsense"):
        client.ask("bob", "hello", {}, 5.0)


def _talkative() -> list[str]:
    return ["sh", "-c", 'echo "Welcome to bob!"; echo; exec "$@"', "sh", *peer_fixture.command()]


def test_what_a_login_shell_prints_first_is_passed_over(start: Start) -> None:
    start(_talkative)
    assert client.ask("bob", "echo", {"text": "x"})["text"] == "x"
    answer = oneshot.ask("bob", "echo", {"text": "y"}, time.monotonic() + 10, _talkative())
    assert answer == {"ok": {"peer": "alice", "text": "y", "pid": answer["ok"]["pid"]}}  # type: ignore[index]


def test_an_upgraded_server_makes_way(start: Start) -> None:
    start(peer_fixture.command)
    old = client.ask("bob", "echo", {"text": ""})["pid"]
    client.ask("bob", "touch", {})
    assert client.ask("bob", "echo", {"text": ""}, 10.0)["pid"] != old


def test_without_a_link_the_request_goes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xenhelper.peer.transport.command_for", peer_fixture.command)
    assert client.ask("bob", "echo", {"text": "x"})["peer"] == "bob"
    with pytest.raises(PeerFailed, match="web1 runs here"):
        client.ask("bob", "refuse", {})


def test_oneshot_keeps_to_its_time_and_says_why() -> None:
    began = time.monotonic()
    with pytest.raises(PeerUnreachable, match="in time"):
        oneshot.ask("bob", "sleep", {"seconds": 9}, began + 1.0, peer_fixture.command())
    assert time.monotonic() - began < 2
    with pytest.raises(PeerUnreachable, match="denied"):
        argv = ["sh", "-c", "echo 'Permission denied' >&2; exit 255"]
        oneshot.ask("bob", "hello", {}, time.monotonic() + 5, argv)


def test_peer_names_cannot_be_paths() -> None:
    with pytest.raises(UsageError):
        client.ask("../bob", "hello", {})


def _server() -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        peer_fixture.command(),
        env=run.ENV,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    return process


def _ask(process: "subprocess.Popen[bytes]", **request: object) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()


def test_a_request_that_comes_too_late_is_not_begun(tmp_path: Path) -> None:
    process = _server()
    assert process.stdout is not None
    now = json.loads(process.stdout.readline())["time"]
    mark = tmp_path / "mark"
    args = {"seconds": 0, "then_write": str(mark)}
    _ask(process, id=1, verb="sleep", args=args, deadline=now - 1)
    answer = json.loads(process.stdout.readline())
    assert "too late" in answer["error"] and not mark.exists()
    _ask(process, id=2, verb="sleep", args=args, deadline=now + 60)
    assert json.loads(process.stdout.readline())["ok"] and mark.exists()
    process.communicate(timeout=5)


def test_server_ends_with_its_connection_but_finishes_what_it_began(tmp_path: Path) -> None:
    process = _server()
    assert process.stdin is not None and process.stdout is not None
    now = json.loads(process.stdout.readline())["time"]
    mark = tmp_path / "mark"
    _ask(process, id=1, verb="sleep", args={"seconds": 1, "then_write": str(mark)}, deadline=now + 60)
    process.stdin.close()
    process.wait(timeout=10)
    assert mark.exists()
    process.stdout.close()


@pytest.mark.parametrize(
    "line", [b"hello\n", b"[]\n", b'{"verb": "echo"}\n', b"x" * (messages.MAX_BYTES + 70000)]
)
def test_server_drops_a_connection_that_talks_nonsense(line: bytes) -> None:
    process = _server()
    out, _ = process.communicate(line, timeout=10)
    assert len(out.splitlines()) == 1


def test_forced_command_needs_a_name() -> None:
    assert subprocess.run(peer_fixture.command("../x"), env=run.ENV, capture_output=True).stdout == b""


def test_client_stays_lean() -> None:
    code = (
        "import sys, xenhelper.peer.client;"
        "print([m for m in ('subprocess','asyncio','dataclasses','configobj','typing') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-IS", "-c", f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); {code}"],
        capture_output=True,
        text=True,
    )
    assert out.stdout.strip() == "[]"


def test_socket_left_by_a_dead_link_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(messages.socket_path("bob"))
    dead.close()
    monkeypatch.setattr("xenhelper.peer.transport.command_for", peer_fixture.command)
    assert client.ask("bob", "echo", {"text": "x"})["text"] == "x"
