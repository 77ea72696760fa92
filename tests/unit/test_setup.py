"""Pairing: what is decided from two hosts' facts, and that a second run changes nothing."""

import os
from pathlib import Path
from typing import Any

import pytest

from xenhelper import config, paths
from xenhelper.errors import (
    CommandFailed,
    ConfigError,
    PeerUnreachable,
    Refused,
    UsageError,
    XenhelperError,
)
from xenhelper.peer import client
from xenhelper.run import Result
from xenhelper.setup import decide, found, half, host
from xenhelper.setup.decide import Link, Wishes

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHwOTqWlzTn0xEGlDBgHgnmQnmdFYXXnHYHuZcZC2RZZ"


def address(device: str, text: str, network: str, default: bool = False) -> dict[str, Any]:
    return {"device": device, "address": text, "network": network, "default": default}


def facts(name: str, number: int, **more: Any) -> dict[str, Any]:
    return {
        "host": name,
        "version": "0.1.0",
        "drbd": "8.4.11",
        "addresses": [
            address("xenbr0", f"192.168.1.{number}", "192.168.1.0/24", True),
            address("eth1", f"10.99.0.{number}", "10.99.0.0/30"),
            address("virbr0", "192.168.122.1", "192.168.122.0/24"),
        ],
        "seen_as": ["192.168.1.1", "192.168.1.2"] if number == 2 else [],
        "volume_groups": {
            group: {"size": 1 << 40, "free": 1 << 39} for group in ("system", "vg0", f"only{number}")
        },
        "root_group": "system",
        "host_keys": [KEY],
        "shim": "missing",
        "conf": "",
        "warnings": [],
        **more,
    }


def links(
    here: dict[str, Any], there: dict[str, Any], wishes: Wishes | None = None, known: Any = None
) -> Any:
    return decide.links(here, there, wishes or Wishes(), known or {})


def test_what_was_found_is_told_in_a_few_lines() -> None:
    no_pv = {"pv": "this Xen is built without shadow paging"}
    same = {"version": "0.1.0", "xen": "4.20", "kernel": "6.12.1-amd64", "drbd": "8.4.11"}
    here, there = (facts(*who, **same, cannot_migrate=no_pv) for who in (("alice", 1), ("bob", 2)))
    for item in here["addresses"]:
        item.update(mtu=9000, speed=10000)
    for item in there["addresses"]:
        item.update(mtu=1500, speed=0)  # a bridge says none
    pairing = decide.pairing(here, there, Wishes(), {}, {"vg0": "vg0"}, 22)
    told = dict(found.lines(pairing, here, there))
    assert told["both"] == "xenhelper 0.1.0, Xen 4.20, Linux 6.12.1-amd64, DRBD 8.4.11"
    assert told["replication"] == "10.99.0.1 - 10.99.0.2 (no default route over it, MTU 1500, 10000 Mbit/s)"
    assert "(a shared network, MTU 1500" in told["management"]
    assert told["replicated"] == "alice:vg0 - bob:vg0"
    assert told["migrates"] == "PVH, HVM guests; not PV (alice: this Xen is built without shadow paging)"
    # hosts that differ, one of them booted without Xen
    there.update(xen="", drbd="", cannot_migrate=None)
    told = dict(found.lines(pairing, here, there))
    assert told["bob"] == "xenhelper 0.1.0, Xen not running, Linux 6.12.1-amd64, DRBD not loaded"
    assert "alice" in told and "migrates" not in told


def test_the_direct_link_replicates_and_ssh_shows_the_other_path() -> None:
    management, replication, warnings = links(facts("alice", 1), facts("bob", 2))
    assert management == Link("192.168.1.1", "192.168.1.2")
    assert replication == Link("10.99.0.1", "10.99.0.2")
    assert not warnings


def test_ssh_over_the_direct_link_leaves_the_other_for_management() -> None:
    there = facts("bob", 2, seen_as=["10.99.0.1", "10.99.0.2"])
    management, replication, _ = links(facts("alice", 1), there)
    assert (management.there, replication.there) == ("192.168.1.2", "10.99.0.2")


def test_one_network_serves_both_with_a_warning() -> None:
    here, there = facts("alice", 1), facts("bob", 2)
    for one in (here, there):
        del one["addresses"][1]
    management, replication, warnings = links(here, there)
    assert management == replication == Link("192.168.1.1", "192.168.1.2")
    assert "takeover" in warnings[0]


def test_two_direct_links_without_a_default_route() -> None:
    here, there = facts("alice", 1), facts("bob", 2, seen_as=["10.98.0.1", "10.98.0.2"])
    for number, one in enumerate((here, there), 1):
        one["addresses"] = [
            address("eth0", f"10.99.0.{number}", "10.99.0.0/24"),
            address("eth1", f"10.98.0.{number}", "10.98.0.0/24"),
            address("eth2", "10.0.2.15", "10.0.2.0/24"),
        ]
    management, replication, _ = links(here, there)
    assert (management.there, replication.there) == ("10.98.0.2", "10.99.0.2")


def test_named_addresses_win_and_must_exist() -> None:
    wish = Wishes(replication=Link("192.168.1.1", "192.168.1.2"))
    assert links(facts("alice", 1), facts("bob", 2), wish)[1] == wish.replication
    with pytest.raises(UsageError, match="not addresses of alice and bob"):
        links(facts("alice", 1), facts("bob", 2), Wishes(replication=Link("10.1.1.1", "10.99.0.2")))


def test_the_configured_choice_stands_until_its_address_goes() -> None:
    known = {
        "host": {"management": "192.168.1.1", "replication": "192.168.1.1"},
        "peers": {"bob": {"management": "192.168.1.2", "replication": "192.168.1.2"}},
    }
    assert links(facts("alice", 1), facts("bob", 2), known=known)[1].here == "192.168.1.1"
    known["peers"]["bob"]["replication"] = "10.99.0.77"
    assert links(facts("alice", 1), facts("bob", 2), known=known)[1].here == "10.99.0.1"


def test_nothing_in_common_names_the_options() -> None:
    with pytest.raises(UsageError, match="--replication"):
        links(facts("alice", 1, addresses=[]), facts("bob", 2))


def test_groups_of_one_name_but_never_dom0s() -> None:
    assert decide.common_groups(facts("alice", 1), facts("bob", 2)) == ["vg0"]
    assert decide.common_groups(facts("alice", 1, root_group=""), facts("bob", 2, root_group="vg0")) == [
        "system"
    ]


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({}, "no volume group is there by the same name.*system \\(holds dom0\\).*--volume-group"),
        ({"vg9": "vg0"}, "alice has no volume group vg9; it has: only1, system, vg0"),
        ({"vg0": "vg9"}, "bob has no volume group vg9"),
        ({"vg0": "vg0", "only1": "vg0"}, "two volume groups here"),
    ],
)
def test_groups_that_cannot_be(groups: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        decide.check_groups(facts("alice", 1), facts("bob", 2), groups)


@pytest.mark.parametrize(
    ("here", "there", "said"),
    [
        ({}, {"host": "alice"}, "is this host"),
        ({}, {"version": "0.2.0"}, "install the same package"),
        ({"shim": "foreign"}, {}, "alice: /usr/local/sbin/xl .*isn't xenhelper's"),
        ({}, {"shim": "foreign"}, "bob: /usr/local/sbin/xl .*isn't xenhelper's"),
        ({}, {"host": "-x"}, "can't stand in DRBD's files"),
    ],
)
def test_pairs_that_cannot_be(here: dict[str, Any], there: dict[str, Any], said: str) -> None:
    with pytest.raises(XenhelperError, match=said):
        decide.check_hosts(facts("alice", 1, **here), facts("bob", 2, **there), "bob")


def test_addresses_are_read_from_ip() -> None:
    links = [
        {
            "ifname": "lo",
            "addr_info": [{"family": "inet", "local": "127.0.0.1", "prefixlen": 8, "scope": "host"}],
        },
        {
            "ifname": "eth0",
            "addr_info": [{"family": "inet", "local": "10.0.0.7", "prefixlen": 24, "scope": "global"}],
        },
        {
            "ifname": "wg0",
            "addr_info": [{"family": "inet", "local": "10.9.0.1", "prefixlen": 32, "scope": "global"}],
        },
        {"ifname": "down", "addr_info": []},
    ]
    assert host.parse_addresses(links, {"eth0"}) == [address("eth0", "10.0.0.7", "10.0.0.0/24", True)]


class Fake:
    """The programs that a half starts, with their state."""

    def __init__(self) -> None:
        self.enabled: set[str] = set()
        self.calls: list[list[str]] = []

    def run(self, argv: list[str], **_: Any) -> Result:
        self.calls.append(argv)
        if argv[:2] == ["systemctl", "is-enabled"]:
            return Result(
                0, "".join("enabled\n" if u in self.enabled else "disabled\n" for u in argv[2:]), ""
            )
        if argv[:2] == ["systemctl", "enable"]:
            self.enabled.update(argv[3:])
        if argv[:2] == ["ssh-keygen", "-q"]:
            Path(argv[-1]).write_text("private")
            Path(argv[-1] + ".pub").write_text(KEY + " c\n")
        if argv[:2] == ["ssh-keygen", "-y"]:
            return Result(0, KEY + " xenhelper@alice\n", "")
        return Result(0, "", "")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    for name in ("CONFIG", "PEER_KEY", "PEER_KNOWN_HOSTS"):
        monkeypatch.setattr(paths, name, str(tmp_path) + getattr(paths, name))
    monkeypatch.setattr(half, "AUTHORIZED_KEYS", str(tmp_path / "root/.ssh/authorized_keys"))
    return tmp_path


@pytest.fixture
def fake(root: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    fake = Fake()
    monkeypatch.setattr(half, "run", fake.run)
    return fake


def apply(**more: Any) -> list[str]:
    pairing = decide.pairing(facts("alice", 1), facts("bob", 2), Wishes(), {}, {"vg0": "vg0"}, 22)
    request = {
        "op": "apply",
        "peer": "bob",
        "conf": pairing.changes_here(),
        "public": KEY,
        "host_keys": [KEY],
    }
    found: list[str] = half.handle({**request, **more})["changed"]
    return found


def test_a_half_does_everything_once(root: Path, fake: Fake) -> None:
    half.handle({"op": "key"})
    assert len(apply()) == 12
    assert apply() == []
    assert half.handle({"op": "key"})["changed"] == []
    found = config.load()
    assert found.host == "alice"
    assert found.peers["bob"].replication == "10.99.0.2"
    assert found.peers["bob"].volume_groups == {"vg0": "vg0"}
    keys = root / "root/.ssh/authorized_keys"
    assert keys.read_text() == f'command="/usr/lib/xenhelper/peer-serve bob",restrict {KEY} xenhelper@bob\n'
    assert keys.stat().st_mode & 0o777 == 0o600
    assert os.readlink(root / "usr/local/sbin/xl") == "/usr/lib/xenhelper/xl"
    assert "xenhelper-peer@bob.service" in fake.enabled


def test_a_dry_run_tells_and_touches_nothing(root: Path, fake: Fake) -> None:
    assert half.handle({"op": "key", "dry_run": True})["public"] == ""
    assert len(apply(dry_run=True, public="")) == 12
    assert not [path for path in root.rglob("*") if path.is_file() or path.is_symlink()]
    assert not fake.enabled


def test_other_keys_and_settings_stay(root: Path, fake: Fake) -> None:
    keys = root / "root/.ssh/authorized_keys"
    keys.parent.mkdir(parents=True)
    keys.write_text('ssh-rsa AAAA admin@desk\ncommand="/usr/lib/xenhelper/peer-serve bob",restrict old x')
    apply()
    lines = keys.read_text().splitlines()
    assert lines[0] == "ssh-rsa AAAA admin@desk" and len(lines) == 2 and KEY in lines[1]
    conf = Path(paths.CONFIG)
    conf.write_text(conf.read_text().replace("[replicate]", "[replicate]\nexclude_vms = test-*  # ours"))
    assert apply() == []
    assert "# ours" in conf.read_text()


def test_a_third_host_joins_without_losing_the_second(
    root: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "addresses", lambda: facts("alice", 1)["addresses"])
    apply()
    pairing = decide.pairing(facts("alice", 1), facts("carol", 3), Wishes(), {}, {"only1": "only3"}, 22)
    half.handle(
        {"op": "apply", "peer": "carol", "conf": pairing.changes_here(), "public": KEY, "host_keys": [KEY]}
    )
    found = config.load()
    assert sorted(found.peers) == ["bob", "carol"]
    assert found.volume_groups == ("vg0", "only1")


def test_a_link_of_its_own_for_each_pair(root: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(number: int, *cables: int) -> list[dict[str, Any]]:
        lan = address("xenbr0", f"192.168.1.{number}", "192.168.1.0/24", True)
        return [lan, *(address(f"eth{c}", f"10.99.{c}.{number}", f"10.99.{c}.0/30") for c in cables)]

    here = facts("alice", 1, addresses=link(1, 0, 1))
    monkeypatch.setattr(host, "addresses", lambda: here["addresses"])

    def join(name: str, there: dict[str, Any], wishes: Wishes | None = None) -> list[str]:
        known = half.present()
        pairing = decide.pairing(here, there, wishes or Wishes(), known, {"vg0": "vg0"}, 22)
        conf = pairing.changes_here()
        request = {"op": "apply", "peer": name, "conf": conf, "public": KEY, "host_keys": [KEY]}
        found: list[str] = half.handle(request)["changed"]
        return found

    bob, carol = facts("bob", 2, addresses=link(2, 0)), facts("carol", 3, addresses=link(3, 1))
    join("bob", bob)
    join("carol", carol)
    found = config.load()
    # bob goes by the default, which stays his; carol has a cable of her own
    assert found.replication == found.peers["bob"].local_replication == "10.99.0.1"
    assert found.peers["carol"].local_replication == "10.99.1.1"
    assert found.peers["carol"].replication == "10.99.1.3"
    assert join("carol", carol) == [] and join("bob", bob) == []
    lan = Wishes(replication=Link("192.168.1.1", "192.168.1.3"))
    join("carol", carol, lan)
    assert config.load().peers["carol"].local_replication == "192.168.1.1"
    assert config.load().replication == "10.99.0.1"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"public": 'x" ssh-ed25519'}, "no ed25519 key"),
        ({"public": KEY + "\nssh-rsa AAAA evil"}, "no ed25519 key"),
        ({"host_keys": ["bob\nevil key"]}, "host keys"),
        ({"host_keys": []}, "ssh-keygen -A"),
        ({"peer": "../bob"}, "host's name"),
        ({"op": "sh"}, "unknown request"),
    ],
)
def test_what_the_other_side_sends_is_checked(
    root: Path, fake: Fake, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(XenhelperError, match=said):
        apply(**more)


def test_a_config_with_a_mistake_stops_it_before_anything(root: Path, fake: Fake) -> None:
    Path(paths.CONFIG).parent.mkdir(parents=True)
    Path(paths.CONFIG).write_text("[hst]\n")
    with pytest.raises(ConfigError, match="line 1"):
        half.handle({"op": "facts"})


def test_a_foreign_xl_is_not_touched(root: Path, fake: Fake) -> None:
    shim = root / "usr/local/sbin/xl"
    shim.parent.mkdir(parents=True)
    shim.write_text("#!/bin/sh\n")
    with pytest.raises(Refused, match="isn't xenhelper's"):
        apply()
    assert shim.read_text() == "#!/bin/sh\n"


def test_the_channel_is_checked_both_for_who_answers_and_for_migrations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    me = os.uname().nodename
    answer = {"host": "bob", "you": me}
    monkeypatch.setattr(client, "ask", lambda *_, **__: answer)

    def denied(argv: list[str], **_: Any) -> Result:
        raise CommandFailed(argv, 255, "Host key verification failed.\n", 30)

    monkeypatch.setattr(half, "run", denied)
    request = {"op": "check", "peer": "bob", "ssh_to": "bob"}
    (warning,) = half.handle(request)["warnings"]
    assert "needs root's ssh to bob, which fails: Host key" in warning
    answer["host"] = "mallory"
    with pytest.raises(XenhelperError, match="answers as mallory"):
        half.handle(request)


def test_a_channel_that_stays_silent_says_where_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: Any, **__: Any) -> Any:
        raise PeerUnreachable("bob can't be asked: Permission denied")

    monkeypatch.setattr(client, "ask", silent)
    with pytest.raises(XenhelperError, match="Permission denied; see `journalctl -u xenhelper-peer@bob`"):
        half.handle({"op": "check", "peer": "bob", "seconds": 0})
