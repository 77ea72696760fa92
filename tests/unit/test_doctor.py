"""doctor: a healthy pair gives nothing, each thing that is wrong gives its one finding."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from xenhelper import config, paths
from xenhelper.cli import doctor as command
from xenhelper.cli import main
from xenhelper.doctor import configs, examine, facts, fix, looks, mail
from xenhelper.doctor.facts import Facts
from xenhelper.doctor.finding import SEVERITIES, Finding
from xenhelper.doctor.pair import Pair
from xenhelper.errors import PeerUnreachable, Refused, XenhelperError
from xenhelper.peer import client
from xenhelper.setup import half

GIB = 1 << 30


def healthy(host: str = "alice", peer: str = "bob") -> Facts:
    record = {
        "resource": "web1-xvda", "vm": "web1", "vdev": "xvda", "minor": "1000", "port": "7800",
        "protocol": "A", "volume": "/dev/vg0/web1", "meta": "/dev/vg0/web1_xhmeta",
        "host": host, "peer": peer,
    }  # fmt: skip
    return Facts(
        host=host,
        versions={"version": "0.1.0", "kernel": "6.12", "drbd": "8.4.11", "xen": "4.20"},
        shim="ours",
        units=dict.fromkeys(half.unit_names(peer), "enabled active"),
        link={"device": "eth0", "mtu": 9000, "speed": 10000},
        files={"/etc/drbd.d/web1.res": "aa", "/etc/xen/web1.cfg": "bb"},
        records={"web1-xvda": record},
        up={"web1-xvda": 1000},
        res_files={"web1": ["web1-xvda"]},
        tagged={"/dev/vg0/web1": "web1-xvda", "/dev/vg0/web1_xhmeta": "web1-xvda"},
        groups={"vg0": {"size": 100 * GIB, "free": 50 * GIB}},
        space={"/etc": [10 * GIB, 20 * GIB], "/var/lib": [10 * GIB, 20 * GIB]},
        configs={"/etc/xen/web1.cfg": {"name": "web1", "ours": True, "direct": []}},
        domains=[{"name": "web1", "kind": "pvh", "replicated": "True"}],
        cannot_migrate={"pv": "no shadow paging"},
        mail={
            "arrays": ["md0"],
            "monitor": True,
            "mailaddr": "root",
            "mta": True,
            "fqdn": "alice.example.org",
        },
    )


def pair(here: Facts | None = None, there: Facts | None = None, offset: float | None = 0.0) -> Pair:
    return Pair(here or healthy(), there or healthy("bob", "alice"), "bob", offset)


def test_a_healthy_pair_gives_no_findings() -> None:
    assert examine.judge(pair()) == []


def without(mapping: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in keys}


H = healthy()
SICK: list[tuple[str, str, dict[str, Any]]] = [
    # severity, words of the finding, what is changed at alice
    ("error", "runs without Xen", {"versions": {**H.versions, "xen": ""}}),
    ("error", "module isn't loaded", {"versions": {**H.versions, "drbd": ""}}),
    ("error", "xenhelper differs: 0.2.0 on alice, 0.1.0 on bob", {
        "versions": {**H.versions, "version": "0.2.0"},
    }),
    ("hint", "kernel differs", {"versions": {**H.versions, "kernel": "6.1"}}),
    ("warning", "Xen differs", {"versions": {**H.versions, "xen": "4.17"}}),
    ("error", "xl is missing", {"shim": "missing"}),
    ("error", "xl is foreign", {"shim": "foreign"}),
    ("error", "watch.service isn't enabled", {
        "units": {**H.units, "xenhelper-watch.service": "disabled active"},
    }),
    ("error", "peer@bob.service is failed", {
        "units": {**H.units, "xenhelper-peer@bob.service": "enabled failed"},
    }),
    ("error", "no device has its replication address", {"link": {"device": "", "address": "10.99.0.9"}}),
    ("warning", "MTU differs: 1500 on alice", {"link": {**H.link, "mtu": 1500}}),
    ("warning", "speed differs: 1000 Mbit/s on alice", {"link": {**H.link, "speed": 1000}}),
    ("error", "web1.res differs between both", {"files": {**H.files, "/etc/drbd.d/web1.res": "cc"}}),
    ("error", "web1.res is missing on alice", {"files": {**H.files, "/etc/drbd.d/web1.res": ""}}),
    ("warning", "web1.cfg differs between both", {"files": {**H.files, "/etc/xen/web1.cfg": "cc"}}),
    ("error", "resource web1-xvda isn't up", {"up": {}}),
    ("error", "web1-xvda has no resource file", {"res_files": {}}),
    ("warning", "web9.res has web9-xvda, of which there is no record", {
        "res_files": {**H.res_files, "web9": ["web9-xvda"]},
    }),
    ("warning", "/dev/vg0/old bears xenhelper's tag of old-xvda", {
        "tagged": {**H.tagged, "/dev/vg0/old": "old-xvda"},
    }),
    ("warning", "web1_xhmeta of web1-xvda isn't there", {
        "tagged": without(H.tagged, "/dev/vg0/web1_xhmeta"),
    }),
    ("hint", "volume group vg0 is full", {"groups": {"vg0": {"size": GIB, "free": 0}}}),
    ("error", "/etc has 10 MiB of 20.0 GiB free", {"space": {"/etc": [10 << 20, 20 * GIB]}}),
    ("warning", "/var/lib has 512 MiB of 20.0 GiB free", {"space": {"/var/lib": [GIB // 2, 20 * GIB]}}),
    ("warning", "has /dev/vg0/web1 itself as a disk", {
        "configs": {"/etc/xen/old.cfg": {"name": "web1", "ours": False, "direct": ["/dev/vg0/web1"]}},
    }),
    ("warning", "pygrub isn't there", {
        "configs": {"/etc/xen/web1.cfg": {"name": "web1", "loader_gone": "/usr/lib/xen-4.14/bin/pygrub"}},
    }),
    ("hint", "looks like Windows", {
        "configs": {"/etc/xen/w.cfg": {"name": "w", "ours": True, "windows": True}},
    }),
    ("hint", "names a keymap", {"configs": {"/etc/xen/w.cfg": {"name": "w", "keymap_gone": True}}}),
    ("hint", "web1 is a PV guest and can't be migrated", {
        "domains": [{"name": "web1", "kind": "pv", "replicated": "True"}],
    }),
    ("error", "runs on /dev/vg0/web1", {
        "beneath": [["web1", "domain web1 runs on /dev/vg0/web1", "`xl destroy`"]],
    }),
    ("error", "drbdadm refuses", {"drbdadm": "drbd.d/x.res:4: Parse error"}),
    ("warning", "xendomains saves", {"xendomains": "xendomains saves guests"}),
    ("error", "root's ssh to bob, which `xl migrate` needs, fails: denied", {"root_ssh": "denied"}),
    ("warning", "nothing watches the RAID arrays (md0)", {"mail": {**H.mail, "monitor": False}}),
    ("warning", "no MAILADDR", {"mail": {**H.mail, "mailaddr": ""}}),
    ("warning", "no /usr/sbin/sendmail", {"mail": {**H.mail, "mta": False}}),
    ("hint", "doesn't resolve to one with a domain", {"mail": {**H.mail, "fqdn": ""}}),
    ("hint", "security source", {"skeletons": ["/usr/share/xen-tools/debian.d/20-setup-apt"]}),
    ("warning", "couldn't be looked at: units: systemctl", {"unread": ["units: systemctl failed"]}),
    ("hint", "read-ahead is small", {
        "tuning": [asdict(Finding("hint", "alice", None, "read-ahead is small", "`xenhelper tune`"))],
    }),
]  # fmt: skip


@pytest.mark.parametrize(("severity", "words", "change"), SICK, ids=[words for _, words, _ in SICK])
def test_each_gives_one_finding_with_its_remedy(severity: str, words: str, change: dict[str, Any]) -> None:
    found = examine.judge(pair(replace(healthy(), **change)))
    assert len(found) == 1, found
    assert found[0].severity == severity and words in found[0].what
    assert found[0].do and "\n" not in found[0].what + found[0].do
    assert found[0].host in ("alice", None)
    # the same at the other host is told of that host
    there = {key: value for key, value in change.items() if key != "units"}
    if there and found[0].host == "alice":
        told = examine.judge(pair(there=replace(healthy("bob", "alice"), **there)))
        assert [one.host for one in told] == ["bob"], told


def test_records_that_only_one_host_has_or_that_differ() -> None:
    alone = replace(healthy(), records={}, up={}, res_files={}, tagged={})
    found = examine.judge(pair(alone))
    assert [(one.severity, one.host) for one in found] == [("error", "alice")]
    assert (
        "known on bob and not on alice" in found[0].what and "`xenhelper forget web1` on bob" in found[0].do
    )
    other = {"web1-xvda": {**H.records["web1-xvda"], "port": "7801"}}
    found = examine.judge(pair(replace(healthy(), records=other)))
    assert len(found) == 1 and "records differ in port" in found[0].what


def test_a_change_under_way_has_no_orphans() -> None:
    tagged = {**H.tagged, "/dev/vg0/new": "new-xvda"}
    there = replace(healthy("bob", "alice"), changing=["new"])
    assert examine.judge(pair(replace(healthy(), tagged=tagged), there)) == []


def test_clocks() -> None:
    assert examine.judge(pair(offset=1.5)) == [] == examine.judge(pair(offset=None))
    assert "bob's clock is 60 s ahead of alice's" in examine.judge(pair(offset=60.0))[0].what
    assert "alice's clock is 60 s ahead of bob's" in examine.judge(pair(offset=-60.0))[0].what


def test_a_silent_peer_is_a_finding_and_this_host_is_looked_at() -> None:
    found = examine.judge(Pair(replace(healthy(), shim="missing"), None, "bob"), "no answer in time")
    assert [one.host for one in found] == ["bob", "alice"]
    assert "no answer in time" in found[0].what


def test_senseless_facts_cost_only_their_check() -> None:
    there = replace(healthy("bob", "alice"), groups={"vg0": {"free": "much"}}, shim="missing")  # type: ignore[dict-item]
    what = [one.what for one in examine.judge(pair(there=there))]
    assert any("check of space failed" in line for line in what) and any(
        "xl is missing" in line for line in what
    )
    for wrong in ([], {"versions": []}, {"host": 1}):
        with pytest.raises(XenhelperError):
            facts.from_json(wrong)
    assert facts.from_json(json.loads(json.dumps(asdict(H)))) == H


# the looks

WEB = """\
name = "web1"
disk = ['phy:/dev/vg0/web1-root,xvda,w']
"""


@pytest.mark.parametrize(
    ("text", "direct"),
    [
        (WEB, ["/dev/vg0/web1-root"]),
        (WEB.replace("/dev/vg0/web1-root", "/dev/mapper/vg0-web1--root"), ["/dev/vg0/web1-root"]),
        (WEB.replace("web1-root", "web1-root2"), []),
        ("# disk = ['phy:/dev/vg0/web1-root,xvda,w']\nname = 'x'\n", []),
        (
            WEB.replace("phy:/dev/vg0/web1-root,xvda,w", "script=block-xenhelper,vdev=xvda,target=web1-xvda"),
            [],
        ),
    ],
)
def test_a_config_that_points_beneath(text: str, direct: list[str]) -> None:
    assert configs.judge(text, ["/dev/vg0/web1-root"])["direct"] == direct


def test_a_config_with_our_block_points_nowhere_beneath() -> None:
    from xenhelper.xen import vmconfig

    ours = ["script=block-xenhelper,vdev=xvda,access=rw,target=web1-xvda"]
    judged = configs.judge(vmconfig.compose(WEB, "web1", ["alice", "bob"], ours), ["/dev/vg0/web1-root"])
    assert (judged["ours"], judged["direct"], judged["name"]) == (True, [], "web1")


def test_oddities_of_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    odd = (
        'name = "w"\ntype = "hvm"\nviridian = 1\nkeymap = "de"\nbootloader = "/usr/lib/xen-4.14/bin/pygrub"\n'
    )
    judged = configs.judge(odd, [])
    assert (
        judged["windows"]
        and judged["keymap_gone"]
        and judged["loader_gone"] == "/usr/lib/xen-4.14/bin/pygrub"
    )
    plain = configs.judge('name = "w"\nviridian = 0\nbootloader = "pygrub"\nkeymap = "de"\n', [])
    assert not (plain["windows"] or plain["keymap_gone"] or plain["loader_gone"])
    for name, text in {"w.cfg": odd, "xl.conf": odd, "empty": "", "w.cfg.bak": odd}.items():
        path = tmp_path / "etc/xen" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "etc/xen/auto").mkdir()
    os.symlink("../w.cfg", tmp_path / "etc/xen/auto/w.cfg")
    assert list(configs.look({})) == ["/etc/xen/w.cfg"], "once, and nothing that is no VM's config"


def test_mail_addresses() -> None:
    assert mail.mail_address("MAILFROM x\nMAILADDR root@example.org\n") == "root@example.org"
    assert mail.mail_address("#MAILADDR root\n") == "" == mail.mail_address("")
    assert mail.mail_address("mailaddr ops\n") == "ops"


def test_our_files_and_their_resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "DRBD_D", str(tmp_path))
    captured = (Path(__file__).parent / "captured/web1.res").read_text()
    (tmp_path / "foreign.res").write_text(captured)
    from tests.lab import bare

    (tmp_path / "web1.res").write_text(bare.resource_file())
    assert looks.res_files() == {"web1": ["web1-xvda"]}


def test_xen_tools_old_security_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    assert looks.skeletons() == []
    for folder, text in (
        ("old.d", "deb http://security/ ${dist}/updates main"),
        ("new.d", "${dist}-security"),
    ):
        path = tmp_path / "usr/share/xen-tools" / folder / "20-setup-apt"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert looks.skeletons() == ["/usr/share/xen-tools/old.d/20-setup-apt"]


def test_what_cant_be_looked_at_is_named_and_the_rest_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ROOT", "RESOURCES", "INTENTS", "DRBD_D", "CONFIG"):
        monkeypatch.setattr(paths, name, str(tmp_path / name.lower()))

    def fail(*_: Any, **__: Any) -> Any:
        raise XenhelperError("no such program")

    monkeypatch.setattr(looks, "run", fail)
    found = facts.from_json(facts.gather("bob"))
    assert any(line.startswith("units: ") for line in found.unread)
    assert found.host == os.uname().nodename and "version" in found.versions


# the command


def settings(*peers: str) -> config.Config:
    known = {
        peer: config.Peer(peer, "192.168.1.2", "10.99.0.2", "10.99.0.1", {"vg0": "vg0"}) for peer in peers
    }
    return config.Config(
        "alice", "192.168.1.1", "10.99.0.1", known, ("vg0",), (), (), (), (7800, 7999), (1000, 1999), "A"
    )


def test_json_is_the_contract(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(paths, "ROOT", "/nowhere")
    monkeypatch.setattr(examine, "examine", lambda: [Finding("hint", "alice", None, "it is", "type this")])
    assert main.main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "findings": [{"severity": "hint", "host": "alice", "vm": None, "what": "it is", "do": "type this"}]
    }
    monkeypatch.setattr(examine, "examine", lambda: [Finding("error", None, "web1", "it is", "type this")])
    assert main.main(["doctor"]) == 1
    assert capsys.readouterr().out == "error: it is\n  do: type this\n"
    monkeypatch.setattr(examine, "examine", list)
    assert main.main(["doctor"]) == 0 and command.HELP
    assert main.main(["doctor", "--dry-run"]) == 2


def test_both_hosts_are_asked_and_the_gravest_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "load", lambda: settings("bob", "carol"))
    here = replace(healthy(), shim="missing", skeletons=["/x"])
    monkeypatch.setattr(examine, "gather", lambda peer: asdict(here))

    def ask(peer: str, verb: str, args: dict[str, Any], timeout: float = 0) -> dict[str, Any]:
        if peer == "carol":
            raise PeerUnreachable("carol can't be asked")
        return {"time": 0} if verb == "hello" else {"facts": asdict(healthy("bob", "alice"))}

    monkeypatch.setattr(client, "ask", ask)
    found = examine.examine()
    assert [SEVERITIES.index(one.severity) for one in found] == sorted(
        SEVERITIES.index(one.severity) for one in found
    )
    what = [one.what for one in found]
    assert sum("xl is missing" in line for line in what) == 1, "one finding, with however many peers"
    assert any("carol doesn't answer" in line for line in what)
    assert any("clock" in line for line in what), "bob's clock is at 1970"


def test_fix_takes_every_step_and_says_what_it_couldnt(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dry_run: bool) -> list[str]:
        raise Refused("/usr/local/sbin/xl is there and isn't xenhelper's", "move it away")

    asked: list[tuple[str, bool]] = []

    def enable(peer: str, dry_run: bool, restart: bool) -> list[str]:
        asked.append((peer, dry_run))
        return [f"enable {peer}"]

    monkeypatch.setattr(half, "link_shim", refuse)
    monkeypatch.setattr(half, "enable_units", enable)
    said = fix.run(settings("bob"), True)
    assert said[0].startswith("not done: ") and said[1:] == ["enable bob"] and asked == [("bob", True)]


def test_no_secret_travels_with_the_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks.beneath, "records", lambda: {"web1-xvda": {"vm": "web1", "secret": "ab" * 20}})
    assert looks.records() == {"web1-xvda": {"vm": "web1"}}
