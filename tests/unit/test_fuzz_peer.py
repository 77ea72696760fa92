"""The peer channel under a peer that sends anything: our own error or an answer, never more."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fuzzing import JSON, TEXT, count, fuzz
from xenhelper import (
    beneath,
    byhand,
    config,
    described,
    errors,
    halfopen,
    hotplug,
    paths,
    plan,
    run,
    statefile,
    vmfile,
)
from xenhelper.drbd import resscan
from xenhelper.errors import CommandFailed, PeerUnreachable, XenhelperError
from xenhelper.peer import client, messages, server, verbs
from xenhelper.xen import domains, xenstore

GOOD = plan.Plan(
    "1f",
    "web1",
    "bob",
    "10.99.0.2",
    "alice",
    "10.99.0.1",
    "A",
    (plan.Disk("xvda", "web1-xvda", 1000, 7800, 1 << 30, "vg0", "vg9", "web1", "ab" * 16, 1 << 22, 1 << 23),),
).to_json()

# one that was made by hand and converted
BY_HAND = plan.from_json(GOOD)
BY_HAND = replace(
    BY_HAND,
    disks=(replace(BY_HAND.disks[0], taken=True, meta="internal", peer_meta="/dev/vg9/m", peer_name="w9"),),
)
SETTINGS = config.Config(
    host="alice",
    management="10.98.0.1",
    replication="10.99.0.1",
    peers={"bob": config.Peer("bob", "10.98.0.2", "10.99.0.2", "10.99.0.1", {"vg9": "vg0"})},
    volume_groups=("vg9",),
    exclude_volumes=(),
    exclude_vms=(),
    shared_volumes=(),
    ports=(7800, 7999),
    minors=(1000, 1199),
    protocol="A",
)
PLANS = (GOOD, BY_HAND.to_json())

_LINES = st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode())


@fuzz
@given(_LINES)
def test_lines(line: bytes) -> None:
    count(test_lines)
    try:
        message = messages.decode(line)
    except XenhelperError:
        return
    try:
        again = messages.encode(message)
    except XenhelperError:
        return  # 1e999
    assert messages.decode(again) == message


@fuzz
@given(st.lists(_LINES | st.just(b'{"id": 1, "verb": "here", "args": {}, "deadline": 1e999}'), max_size=4))
def test_a_server_answers_requests_and_ends_at_nonsense(lines: list[bytes]) -> None:
    count(test_a_server_answers_requests_and_ends_at_nonsense)
    source, their_end = os.pipe()
    our_end, sink = os.pipe()
    os.write(their_end, b"".join(line.replace(b"\n", b" ") + b"\n" for line in lines))
    os.close(their_end)
    one = server.Server("bob", source, sink)
    one._preload = lambda: None  # type: ignore[method-assign]
    one._watch_silence = lambda: None  # type: ignore[method-assign]
    one.serve()
    os.close(source)
    os.close(sink)
    with os.fdopen(our_end, "rb") as file:
        answers = [json.loads(line) for line in file.read().splitlines()]
    assert answers[0]["id"] == 0
    for answer in answers[1:]:
        assert {"ok", "error", "time", "again"} & set(answer)
        assert not str(answer.get("error", "")).startswith(f"{os.uname().nodename}: request")


def _of(kind: object) -> st.SearchStrategy[Any]:
    if isinstance(kind, list):
        return st.lists(_of(kind[0]), max_size=3)
    if kind is str:
        names = ["web1", "web1-xvda", "vg0", "/etc/xen/web1.cfg", "../x", "/boot/grub/grub.cfg", "bob", ""]
        return st.sampled_from(names) | TEXT
    if kind is int:
        return st.integers(0, 8000) | st.integers(-(2**70), 2**70)
    if kind is float:
        return st.sampled_from([0, 0.0, -1.5])
    if kind is bool:
        return st.booleans()
    return st.just(GOOD) | JSON.filter(lambda value: isinstance(value, dict))


@st.composite
def _requests(draw: st.DrawFn) -> tuple[str, Any]:
    verb = draw(st.sampled_from(sorted(verbs.VERBS)))
    schema = verbs.VERBS[verb][2]
    args = {key.rstrip("?"): draw(_of(kind)) for key, kind in schema.items()}
    for key in schema:
        if key.endswith("?") and draw(st.booleans()):
            del args[key[:-1]]
    if draw(st.integers(0, 9)) == 0:
        args[draw(TEXT)] = draw(JSON)
    return verb, args


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for /, one record in it, and no program that works."""
    for name, value in vars(paths).copy().items():
        if name.isupper() and isinstance(value, str) and name != "PATH" and value.startswith("/"):
            monkeypatch.setattr(paths, name, str(tmp_path) + value)
    monkeypatch.setattr(paths, "LIBEXEC", "/usr/lib/xenhelper")
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    for module, name in ((run, "run"), (client, "ask")):
        monkeypatch.setattr(module, name, _fails if name == "run" else _silent)
    for name in ("etc/xen", "boot/grub", "etc/drbd.d", "proc"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "boot/grub/grub.cfg").write_text("set timeout=5\n")
    (tmp_path / "etc/xen/web1.cfg").write_text('name = "web1"\n')
    record = {"resource": "web1-xvda", "vm": "web1", "peer": "bob", "host": "alice", "minor": "1000"}
    record |= {"volume": "/dev/vg0/web1", "meta": "/dev/vg0/web1_xhmeta", "vdev": "xvda", "port": "7800"}
    statefile.write(f"{paths.RESOURCES}/web1-xvda", record)
    yield tmp_path


def _fails(argv: list[str], *_: object, **__: object) -> None:
    assert all(isinstance(word, str) and "\0" not in word for word in argv)
    raise CommandFailed(argv, 1, "no", 1.0)


def _silent(*_: object, **__: object) -> None:
    raise PeerUnreachable("bob is silent")


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name ``run`` in each module that took it over."""
    import importlib
    import sys

    for module, _, _ in verbs.VERBS.values():
        importlib.import_module(module)
    for module in [m for name, m in sys.modules.items() if name.startswith("xenhelper")]:
        for name, value in vars(module).copy().items():
            if value is run.run:
                monkeypatch.setattr(module, name, _fails)
            elif value is client.ask:
                monkeypatch.setattr(module, name, _silent)


def test_every_verb_with_any_arguments(programs: None, host: Path) -> None:
    """Checked arguments of the right shape and any content: refused, or answered in JSON;
    nothing is written outside our own folders, and no other file changes."""

    @fuzz
    @given(_requests())
    def each(request: tuple[str, Any]) -> None:
        count(test_every_verb_with_any_arguments)
        verb, args = request
        function, schema = verbs.handler(verb)
        try:
            messages.encode({"ok": function("bob", messages.check(verb, args, schema))})
        except XenhelperError as error:
            assert str(error).isprintable()
        lease = Path(paths.LOCKS, "allocation")
        lease.unlink(missing_ok=True)

    each()
    assert (host / "boot/grub/grub.cfg").read_text() == "set timeout=5\n"
    assert (host / "etc/xen/web1.cfg").read_text().startswith('name = "web1"\n')
    ours = {"run/xenhelper", "var/lib/xenhelper", "etc/xen", "boot/grub", "etc/drbd.d"}
    for path in host.rglob("*"):
        if path.is_file():
            assert any(str(path.relative_to(host)).startswith(folder) for folder in ours), path


@fuzz
@given(
    st.sampled_from(PLANS),
    st.sampled_from(sorted(GOOD)),
    st.sampled_from([*sorted(GOOD["resources"][0]), ""]),
    JSON,
)
def test_plans(base: dict[str, Any], key: str, of_disk: str, value: Any) -> None:
    """A plan that passes makes a resource file that says just what the plan says."""
    count(test_plans)
    tree = json.loads(json.dumps(base))
    if of_disk:
        tree["resources"][0][of_disk] = value
    else:
        tree[key] = value
    try:
        made = plan.from_json(tree)
        text = made.resource_file()
    except XenhelperError:
        return
    found, includes = resscan.scan_text(text, made.host)
    assert found.names == {disk.resource for disk in made.disks} and not includes
    assert found.minors == {disk.minor for disk in made.disks}
    assert found.ports == {disk.port for disk in made.disks}
    assert text.count("handlers {") == text.count("\nresource ") == len(made.disks)


_SIDE = byhand.Side("bob", "web1-xvda", 1000, "0", "ipv4:10.99.0.2:7800", "ipv4:10.99.0.1:7800")


@fuzz
@given(st.sampled_from(sorted(asdict(_SIDE))), JSON)
def test_what_a_peer_tells_of_resources_made_by_hand(key: str, value: Any) -> None:
    """It is taken, or refused with a line of ours; so is a conversion from it."""
    count(test_what_a_peer_tells_of_resources_made_by_hand)
    try:
        side = byhand.side_from_json({**asdict(_SIDE), key: value})
        byhand.check_side(side, "web1")
    except XenhelperError as error:
        assert str(error).isprintable()


@fuzz
@given(
    st.sampled_from(["plan", "disks", "config", "text", "sha256", "last_ran", "peer"]),
    st.sampled_from([*sorted(GOOD), ""]),
    JSON,
)
def test_what_a_peer_tells_of_a_lost_half(host: Path, key: str, of_plan: str, value: Any) -> None:
    """What is left of it names no path outside the places for configs, and no other VM."""
    count(test_what_a_peer_tells_of_a_lost_half)
    tree = json.loads(json.dumps(GOOD))
    tree["resources"][0]["fresh"] = False
    answer: dict[str, Any] = {"plan": tree, "disks": {"web1-xvda": "UpToDate"}, "text": 'name = "web1"\n'}
    answer |= {"config": "/etc/xen/web1.cfg", "sha256": "ab" * 32, "last_ran": "bob"}
    if key == "plan" and of_plan:
        tree[of_plan] = value
    else:
        answer[key] = value
    try:
        told = described.checked(SETTINGS, "web1", "bob", answer)
    except XenhelperError as error:
        assert str(error).isprintable()
        return
    assert told.plan.vm == "web1" and {told.plan.host, told.plan.peer} == {"alice", "bob"}
    assert told.config in ("", "/dev/null") or vmfile.storable(told.config)
    assert not told.text or "web1" in told.text


class _Store:
    """xenstore in which every value is what somebody chose."""

    def __init__(self, values: list[str]) -> None:
        self.values = values
        self.at = 0

    def _next(self) -> str:
        self.at += 1
        return self.values[self.at % len(self.values)]

    def read(self, path: str) -> str:
        return self._next()

    def list(self, path: str) -> list[str]:
        return ["0", "1", "51712"]


_VALUES = (
    st.sampled_from(["web1-xvda", "/dev/vg0/web1", "fd:3", "aio:/dev/vg0/web1", "x:y:z", "../../etc"]) | TEXT
)


@fuzz
@given(st.lists(_VALUES, min_size=1, max_size=6))
def test_xenstore_values(values: list[str]) -> None:
    count(test_xenstore_values)
    store: Any = _Store(values)
    beneath.find(beneath.backends(store), {"web1-xvda": {"volume": "/dev/null", "meta": "/dev/zero"}})
    domains.users_of(store, "web1-xvda")
    domains.by_name(store, "web1")
    for value in values:
        line = xenstore.clean(value)
        assert line.isascii() and line.isprintable() or line == ""
        assert errors.plain(value).isprintable()
        try:
            disk = hotplug.Disk(store, "backend/vbd/1/51712")
            assert re.fullmatch(r"[\w+-]+", disk.resource, re.ASCII)
            hotplug.Disk(store, value)
        except XenhelperError:
            pass


@fuzz
@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3), st.binary(max_size=40)), max_size=5),
    st.binary(max_size=40),
)
def test_what_xenstored_sends(packets: list[tuple[int, int, bytes]], rest: bytes) -> None:
    count(test_what_xenstored_sends)
    ours, theirs = os.pipe()
    store = xenstore.Xenstore.__new__(xenstore.Xenstore)
    store.timeout, store._events, store._buffer, store._request, store._sock = 0.01, [], b"", 0, None
    store._fd = ours
    store._send = lambda data: len(data)  # type: ignore[method-assign,assignment]
    for kind, number, body in packets:
        header = b"".join(n.to_bytes(4, "little") for n in (kind, number, 0, len(body)))
        os.write(theirs, header + body)
    os.write(theirs, rest)
    os.close(theirs)
    try:
        for ask in (lambda: store.read("a"), lambda: store.list("a"), lambda: store.write_all({"a": "b"})):
            try:
                ask()
            except XenhelperError as error:
                assert str(error).isprintable()
        try:
            store.next_event(0.0)
        except XenhelperError:
            pass
    finally:
        os.close(ours)


@fuzz
@given(TEXT, st.integers(), st.integers())
def test_addresses(text: str, port: int, to: int) -> None:
    count(test_addresses)
    try:
        halfopen.serve_connection("bob", {"address": text, "port": port, "to": to})
    except XenhelperError:
        pass
