"""The kernel's own words, captured on two hosts (tests/unit/captured), read right."""

from pathlib import Path

import pytest

from xenhelper import paths
from xenhelper.drbd import barrier, events, proc, show, verbs
from xenhelper.errors import CommandFailed
from xenhelper.run import Result

CAPTURED = Path(__file__).parent / "captured"


def captured(name: str) -> str:
    return (CAPTURED / f"{name}.txt").read_text()


def test_both_ends_of_a_running_guest() -> None:
    alice = events.parse(captured("events2-now-statistics-guest-writing-alice"))
    bob = events.parse(captured("events2-now-statistics-guest-writing-bob"))
    assert sorted(alice) == sorted(bob) == ["web1-xvda", "web1-xvdb"]
    for name, minor in (("web1-xvda", 1000), ("web1-xvdb", 1001)):
        assert (alice[name].minor, alice[name].role, alice[name].peer_role) == (minor, "Primary", "Secondary")
        assert (bob[name].minor, bob[name].role, bob[name].peer_role) == (minor, "Secondary", "Primary")
        assert alice[name].in_sync and bob[name].in_sync
    assert alice["web1-xvda"].size == 64 * 1024 * 1024


def test_nothing_is_in_sync_before_the_first_sync() -> None:
    found = events.parse(captured("events2-now-statistics-inconsistent-both-alice"))["web1-xvda"]
    assert found.connected and not found.in_sync
    assert found.out_of_sync > 0


def test_runtime_settings_are_read_with_their_addresses() -> None:
    found = show.parse(captured("drbdsetup-show-inconsistent-alice"))["web1-xvda"]
    assert (found.protocol, found.two_primaries) == ("A", False)
    assert (found.local, found.remote) == ("ipv4:10.99.0.1:7800", "ipv4:10.99.0.2:7800")
    assert (found.minor, found.volume) == (1000, "/dev/vg0/web1-root")
    assert found.meta == "/dev/vg0/web1-root_xhmeta"


def test_a_setting_that_show_leaves_out_has_drbds_default() -> None:
    found = show.parse("resource r {\n net {\n }\n _this_host {\n volume 0 {\n device minor 1;\n }\n }\n}\n")[
        "r"
    ]
    assert (found.protocol, found.two_primaries, found.remote) == ("C", False, "")


def test_two_primaries_is_seen() -> None:
    text = captured("drbdsetup-show-inconsistent-alice").replace(
        "protocol        \tA;", "protocol C;\n allow-two-primaries\tyes;"
    )
    found = show.parse(text)["web1-xvda"]
    assert (found.protocol, found.two_primaries) == ("C", True)


def test_the_generation_is_read_without_the_primary_bit() -> None:
    syncing = verbs.parse_generation(captured("drbdsetup-get-gi-syncing-alice"))
    assert syncing == (0xCCFEB43088CEF7CE, 0x7FC1D8913FAE9960)
    assert verbs.parse_generation(captured("drbdsetup-get-gi-connected-alice")) == (syncing[0], 0)
    with pytest.raises(Exception, match="no generation"):
        verbs.parse_generation("no device\n")
    # what was cut or garbled on its way is no generation, though int() would take it
    for odd in ("-00000000E956770", "+00000000E956770", "0000_0000E956770", "E956770", "٠" * 16):
        with pytest.raises(Exception, match="no generation"):
            verbs.parse_generation(":".join([odd, *(["0" * 16] * 3), "1"]))


def test_a_disk_that_died_as_primary_is_told_by_its_flags() -> None:
    connected = captured("drbdsetup-get-gi-connected-bob")
    assert verbs.parse_was_primary(connected) is False
    assert verbs.parse_was_primary(captured("drbdsetup-get-gi-disconnected-alice")) is True  # it still is
    assert verbs.parse_was_primary(connected.replace(":0\n", ":1\n")) is True, "a crashed primary"
    with pytest.raises(Exception, match="no flags"):
        verbs.parse_was_primary(f"{16 * 'A'}:{16 * '0'}:{16 * '0'}:{15 * '0'}4\n")


def test_the_oldest_write_in_flight() -> None:
    ages = [
        barrier.oldest_write_ms(text)
        for n in range(3)
        for text in captured(f"in-flight-summary-writing-protocol-a-{n}").split("----")
    ]
    assert 12 in ages and None in ages
    assert all(age is None or 0 <= age < 1000 for age in ages)
    assert barrier.oldest_write_ms(captured("in-flight-summary-secondary")) is None


def test_a_read_in_flight_is_no_write() -> None:
    text = next(
        t
        for t in captured("in-flight-summary-writing-protocol-a-0").split("----")
        if barrier.oldest_write_ms(t) == 8
    )
    assert barrier.oldest_write_ms(text.replace("\tW\t", "\tR\t")) is None


@pytest.mark.parametrize("cut", range(0, 400, 7))
def test_a_line_cut_off_anywhere_does_not_raise(cut: int) -> None:
    events.parse(captured("events2-now-statistics-guest-writing-alice")[: -cut or None])
    show.parse(captured("drbdsetup-show-inconsistent-alice")[: -cut or None])
    barrier.oldest_write_ms(captured("in-flight-summary-writing-protocol-a-0")[: -cut or None])


@pytest.mark.parametrize(
    ("stderr", "gone"),
    [
        ("received netlink error reply: No such device\n", True),
        ("Could not connect to 'drbd' generic netlink family\n", False),
    ],
)
def test_only_an_unknown_resource_has_no_settings(
    monkeypatch: pytest.MonkeyPatch, stderr: str, gone: bool
) -> None:
    def fails(argv: list[str], timeout: float, ok: tuple[int, ...] = (0,)) -> Result:
        raise CommandFailed(argv, 20, stderr, timeout)

    monkeypatch.setattr(show, "run", fails)
    if gone:
        assert show.one("web1-xvda") is None
    else:
        with pytest.raises(CommandFailed):
            show.one("web1-xvda")


# those with both
STATES = sorted(
    path.stem.removeprefix("proc-drbd-")
    for path in CAPTURED.glob("proc-drbd-*.txt")
    if (CAPTURED / path.name.replace("proc-drbd", "events2-now-statistics")).exists()
)


def _kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, minors: dict[int, str]) -> None:
    """A host whose kernel says ``text``, with resources by minor and our records of them."""
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    monkeypatch.setattr(paths, "RESOURCES", str(tmp_path / "resources"))
    links = tmp_path / "sys/kernel/debug/drbd/minors"
    for folder in ("proc", "resources", "sys/kernel/debug/drbd/minors"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / "proc/drbd").write_text(text)
    for minor, name in minors.items():
        (links / str(minor)).symlink_to(f"../resources/{name}/volumes/0")
        (tmp_path / "resources" / name).write_text(f"minor={minor}\n")
        block = tmp_path / f"sys/block/drbd{minor}"
        block.mkdir(parents=True)
        (block / "size").write_text({1000: "131072\n", 1001: "65536\n"}.get(minor, "2048\n"))


@pytest.mark.parametrize("state", STATES)
def test_proc_drbd_says_the_same_as_events2(
    state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both were captured in the same state. Only what is connected and at rest is read there."""
    events2 = CAPTURED / f"events2-now-statistics-{state}.txt"
    told = events.parse(events2.read_text())
    text = (CAPTURED / f"proc-drbd-{state}.txt").read_text()
    _kernel(tmp_path, monkeypatch, text, {1000: "web1-xvda", 1001: "web1-xvdb"})
    # a guest that writes has other requests in flight a moment later
    moving = () if state.startswith("connected-idle") else ("upper_pending", "lower_pending")
    for name, wanted in told.items():
        seen = events._connected(name)
        at_rest = wanted.connected and wanted.replication == "Established"
        assert (seen is not None) == at_rest, name
        if seen is not None:
            for key in set(seen.__slots__) - {"protocol", *moving}:
                assert getattr(seen, key) == getattr(wanted, key), (name, key)


def test_a_guest_that_writes_has_requests_in_proc_drbd() -> None:
    text = (CAPTURED / "proc-drbd-guest-writing-slow-link-protocol-c-alice.txt").read_text()
    busy = [state for state in proc.parse(text)[1].values() if state.upper_pending]
    assert busy


def test_proc_drbd_is_left_alone_where_it_may_be_another_resource_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (CAPTURED / "proc-drbd-connected-idle-alice.txt").read_text()
    _kernel(tmp_path, monkeypatch, text, {1000: "web1-xvda"})
    assert proc.connected("web1-xvda", 1000) is not None
    assert proc.connected("web1-xvdb", 1000) is None  # the minor is the other one's
    assert proc.connected("web1-xvdb", 1001) is None  # no debugfs to say whose it is
    (tmp_path / "resources/web1-xvda").write_text("minor=100\n")
    assert events._connected("web1-xvda") is None and events._connected("unknown") is None
    (tmp_path / "sys/kernel/debug/drbd/minors/100").symlink_to("../resources/web1-xvda/volumes/0")
    assert events._connected("web1-xvda") is None  # 1000's line isn't 100's


def test_another_major_version_s_proc_drbd_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (CAPTURED / "proc-drbd-connected-idle-alice.txt").read_text()
    _kernel(tmp_path, monkeypatch, text.replace("8.4.11", "9.2.12", 1), {1000: "web1-xvda"})
    assert proc.connected("web1-xvda", 1000) is None
    half = text[: text.index("wo:f")]  # cut short: the counters aren't there
    _kernel(tmp_path / "b", monkeypatch, half, {1000: "web1-xvda"})
    assert proc.connected("web1-xvda", 1000) is None
