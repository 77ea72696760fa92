"""The pure parts of Create: parsers on captured output, decisions, rendering, choices."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenhelper import allocate, lease, names, paths, plan, policy, vmfile, volumes, xlargs
from xenhelper.drbd import proc, resfile, resscan
from xenhelper.errors import Refused, UsageError, XenhelperError
from xenhelper.volumes import Volume
from xenhelper.xen import vmconfig

CAPTURED = Path(__file__).parent / "captured"


def captured(name: str) -> str:
    return (CAPTURED / f"{name}.txt").read_text()


# volumes


def test_groups_are_read_from_vgs_and_from_lvs() -> None:
    report = json.loads(captured("vgs-report"))
    text = json.dumps(report)
    found = volumes.parse_groups(text)
    assert found["vg1"] == volumes.Group("vg1", 62914560, 62914560, 4194304)
    for row in report["report"][0]["vg"]:
        row.update(lv_name="x")
    as_lvs = json.dumps({"report": [{"lv": report["report"][0]["vg"]}]})
    assert volumes.parse_groups(as_lvs) == found


def test_volumes_are_read_with_tags_and_open_state() -> None:
    report = json.loads(captured("lvs-report"))
    for at, row in enumerate(report["report"][0]["lv"]):
        row.update(lv_kernel_major="254", lv_kernel_minor=str(at))
    first = report["report"][0]["lv"][0]
    first.update(lv_attr="-wi-ao----", lv_tags="a,xenhelper.vm=web1")
    report["report"][0]["lv"][1].update(lv_kernel_major="-1", lv_kernel_minor="-1")
    found = volumes.parse_volumes(json.dumps(report))
    assert found[0] == Volume("vg0", "web1-root", 67108864, ("a", "xenhelper.vm=web1"), True, (254, 0))
    assert found[0].tag("vm") == "web1" and found[0].tag("resource") == ""
    assert found[1].device is None and not found[1].open


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"report": [{"lv": [3]}]}'])
def test_a_garbled_lvm_report_is_one_plain_error(text: str) -> None:
    with pytest.raises(XenhelperError, match="LVM's report"):
        volumes.parse_volumes(text)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/dev/vg0/web1", ("vg0", "web1")),
        ("/dev/mapper/vg0-web1", ("vg0", "web1")),
        ("/dev/mapper/vg--0-web1--root", ("vg-0", "web1-root")),
        ("/dev/mapper/a---b", ("a-", "b")),
        ("/dev/mapper/vg0", None),
        ("/dev/mapper/a-b-c", None),
        ("/dev/vg0/-x", None),
        ("/dev/vg0/x y", None),
        ("/dev/vg0/..", None),
        ("/dev/sda1", None),
        ("vg0/web1", None),
        ("/tmp/vg0/web1", None),
    ],
)
def test_paths_name_volumes(path: str, expected: tuple[str, str] | None) -> None:
    assert volumes.split_path(path) == expected


lvm_names = st.from_regex(r"[a-z0-9_+.][a-z0-9_+.-]{0,12}", fullmatch=True).filter(volumes.valid_name)


@given(lvm_names, lvm_names)
def test_mapper_names_come_apart_as_device_mapper_joined_them(group: str, name: str) -> None:
    mapped = f"/dev/mapper/{group.replace('-', '--')}-{name.replace('-', '--')}"
    assert volumes.split_path(mapped) == (group, name)


@given(st.integers(1, 1 << 50), st.sampled_from([1 << 10, 1 << 12, 4 << 20, 32 << 20]))
def test_metadata_always_has_room(size: int, extent: int) -> None:
    got = volumes.meta_bytes(size, extent)
    assert got % extent == 0
    assert got >= 36 * 1024 + 32 * 1024 * size / 2**30
    assert got >= 1 << 20  # less than that DRBD 8.4 doesn't attach


def test_only_proven_volumes_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(volumes, "run", lambda argv, **_: ran.append(argv))
    volume = Volume("vg0", "web1", 1, ("xenhelper.run=1",))
    for required in ((), ("xenhelper.run=2",), ("xenhelper.run=1", "xenhelper.vm=web1")):
        with pytest.raises(XenhelperError, match="isn't removed"):
            volumes.remove(volume, *required)
    assert not ran
    volumes.remove(volume, "xenhelper.run=1")
    assert ran == [["lvremove", "--yes", "vg0/web1"]]


def test_only_metadata_volumes_are_zeroed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    for name in ("web1", "web1_xhmeta"):
        (tmp_path / name).write_bytes(b"x" * 3000)
    with pytest.raises(XenhelperError):
        volumes.zero_start("/web1")
    volumes.zero_start("/web1_xhmeta", 2000)
    assert (tmp_path / "web1").read_bytes() == b"x" * 3000
    assert (tmp_path / "web1_xhmeta").read_bytes() == bytes(2000) + b"x" * 1000


# vmconfig


@pytest.mark.parametrize("name", ["many-syntaxes", "original"])
def test_each_captured_disk_is_written_as_xl_read_it(name: str) -> None:
    parsed = vmconfig.parse(captured(f"xl-create-dryrun-{name}"))
    assert parsed.name == "web1" and parsed.disks
    for disk in parsed.disks:
        words = vmconfig.spec(disk).split(",")
        assert f"vdev={disk['vdev']}" in words
        assert words[-1] == f"target={disk['pdev_path']}"
        assert ("devtype=cdrom" in words) == bool(disk.get("is_cdrom"))
        assert ("access=ro" in words) == (not disk.get("readwrite") and not disk.get("is_cdrom"))
        assert ("direct-io-safe" in words) == bool(disk.get("direct_io_safe"))
        assert ("discard" in words) == (disk.get("discard_enable") == "True")
        assert (f"script={disk.get('script')}" in words) == ("script" in disk)


def test_what_the_vm_needs_elsewhere() -> None:
    parsed = vmconfig.parse(captured("xl-create-dryrun-original"))
    assert parsed.files == ("/var/lib/xenlab/vmlinuz", "/var/lib/xenlab/guest.img")
    assert parsed.bridges == ("xenbr0",)
    assert parsed.guest_type == "pvh"


def test_an_attribute_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(XenhelperError, match="'future'"):
        vmconfig.spec({"vdev": "xvda", "future": 1})


config_texts = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=80).filter(
    lambda text: vmconfig.BEGIN not in text
)


@given(config_texts, config_texts)
def test_the_block_goes_in_and_comes_out_without_a_trace(text: str, after: str) -> None:
    whole = vmconfig.compose(text, "web1", ("bob", "alice"), ["vdev=xvda,target=web1-xvda", "a'b\\c"])
    assert vmconfig.split(whole) == (text, vmconfig.Block("web1", True))
    rest, block = vmconfig.split(whole + after)
    assert block == vmconfig.Block("web1", True)
    assert rest.startswith(text) and rest.endswith(after)


def test_bytes_of_any_encoding_survive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    raw = b"# caf\xe9 \xff\nname='x'"
    (tmp_path / "x.cfg").write_bytes(raw)
    text = vmconfig.read_file("/x.cfg")
    assert vmconfig.to_bytes(vmconfig.split(vmconfig.compose(text, "x", ("bob", "alice"), []))[0]) == raw


def test_an_edited_or_damaged_block_is_noticed() -> None:
    whole = vmconfig.compose("name='web1'\n", "web1", ("bob", "alice"), ["vdev=xvda,target=a"])
    assert vmconfig.split(whole.replace("target=a", "target=b"))[1] == vmconfig.Block("web1", False)
    for broken in (whole.replace(vmconfig.END, ""), whole + whole, whole.replace("checksum", "sum")):
        with pytest.raises(XenhelperError, match="damaged"):
            vmconfig.split(broken)


def test_the_quick_check_finds_the_mark_that_compose_writes() -> None:
    from xenhelper import create

    text = vmconfig.compose("name='web1'\n", "web1", ("bob", "alice"), [])
    whole = text.encode()
    assert create._sha256(whole) == vmconfig.checksum(text)
    start = whole.rfind(create._MARK)
    assert start > 0 and whole[start + len(create._MARK) :].startswith(b"web1, ")


@pytest.mark.parametrize(
    ("text", "touches"),
    [
        ("disk=['x']", True),
        ("disk += ['x']", True),
        ("memory=1; disk = []", True),
        ("memory=1\n\tname='b'", True),
        ("memory=512", False),
        ("kernel='/disk/name=x'", False),
        ("diskless=1", False),
        ("extra='root=/dev/xvda'", False),
    ],
)
def test_settings_that_may_change_disks(text: str, touches: bool) -> None:
    assert vmconfig.touches_disks([text]) is touches


def parsed(disks: list[dict[str, Any]], **tree: Any) -> vmconfig.Parsed:
    full = {"c_info": {"name": "web1", "uuid": str(id(disks))}, "disks": disks, **tree}
    return vmconfig.Parsed("web1", tuple(disks), full)


def test_only_the_expected_difference_passes() -> None:
    one = {"vdev": "xvda", "pdev_path": "/dev/vg0/a", "format": "raw", "readwrite": 1}
    two = {"vdev": "xvdb", "pdev_path": "/x.img", "format": "qcow2", "readwrite": 1}
    before = parsed([one, two], nics=[{"bridge": "xenbr0"}])
    new = {**one, "pdev_path": "web1-xvda", "script": "block-xenhelper"}
    good = {"nics": [{"bridge": "xenbr0"}]}
    resources = {"xvda": "web1-xvda"}
    assert vmconfig.difference(before, parsed([new, two], **good), resources) == ""
    assert vmconfig.difference(before, parsed([new, {**two, "readwrite": 0}], **good), resources)
    assert vmconfig.difference(before, parsed([{**new, "readwrite": 0}, two], **good), resources)
    assert vmconfig.difference(before, parsed([{**new, "pdev_path": "x"}, two], **good), resources)
    assert vmconfig.difference(before, parsed([new], **good), resources)
    assert vmconfig.difference(before, parsed([new, two], nics=[]), resources)


# policy

VOLUMES = (
    Volume("vg0", "web1", 1 << 30),
    Volume("vg0", "other", 1 << 30),
    Volume("vg0", "web1_xhmeta", 1 << 22),
    Volume("vg0", "scratch", 1 << 30),
    Volume("vg0", "common", 1 << 30),
    Volume("vg1", "x", 1 << 30),
)
RULES = policy.Rules(("vg0",), ("vg0/scratch*",), ("test*",), ("vg0/common",))
RECORDS = {
    "old-xvda": {"vm": "old", "vdev": "xvda", "volume": "/dev/vg0/other", "meta": "/dev/vg0/other_xhmeta"}
}


@pytest.mark.parametrize(
    ("disk", "action", "reason"),
    [
        ({}, "replicate", "will be"),
        ({"readwrite": 0}, "replicate", "will be"),
        ({"pdev_path": "/dev/mapper/vg0-web1"}, "replicate", "will be"),
        ({"backend_domname": "dom0"}, "replicate", "will be"),
        ({"backend": "phy"}, "replicate", "will be"),
        ({"is_cdrom": 1}, "leave", "CD-ROM"),
        ({"pdev_path": "", "format": "empty"}, "leave", "no medium"),
        ({"pdev_path": "/x.img"}, "leave", "file-backed"),
        ({"pdev_path": "/x.img", "format": "qcow2"}, "leave", "format qcow2"),
        ({"script": "block-iscsi"}, "leave", "script block-iscsi"),
        ({"backend": "qdisk"}, "leave", "backend qdisk"),
        ({"backend_domname": "storage"}, "leave", "domain storage"),
        ({"pdev_path": "/dev/vg1/x"}, "leave", "vg1 isn't replicated"),
        ({"pdev_path": "/dev/vg0/scratch"}, "leave", "left out by name"),
        ({"pdev_path": "/dev/vg0/common"}, "leave", "declared shared"),
        ({"pdev_path": "/dev/sdz9"}, "leave", "no LVM volume"),
        ({"pdev_path": "/dev/drbd_x"}, "leave", "a DRBD device"),
        ({"pdev_path": "/dev/vg0/gone"}, "refuse", "no such active volume"),
        ({"pdev_path": "/dev/vg0/other"}, "refuse", "beneath DRBD resource old-xvda"),
        ({"pdev_path": "/dev/vg0/other", "backend": "qdisk"}, "refuse", "beneath DRBD resource old-xvda"),
        ({"pdev_path": "/dev/vg0/web1_xhmeta"}, "refuse", "metadata volume"),
        ({"vdev": "0x1"}, "refuse", "vdev"),
        ({"script": "block-xenhelper", "pdev_path": "old-xvda"}, "refuse", "belongs to VM old"),
        ({"script": "block-xenhelper", "pdev_path": "mine"}, "leave", "already"),
    ],
)
def test_each_kind_of_disk_is_decided(disk: dict[str, Any], action: str, reason: str) -> None:
    full = {"vdev": "xvda", "pdev_path": "/dev/vg0/web1", "format": "raw", "readwrite": 1, **disk}
    (decision,) = policy.decide("web1", [full], RULES, policy.Facts(VOLUMES, RECORDS, {}))
    assert (decision.action, reason in decision.reason) == (action, True), decision


def test_a_vms_own_resource_stays_whatever_its_vdev_is_now() -> None:
    disk = {"vdev": "sda", "pdev_path": "/dev/vg0/other", "format": "raw"}
    (decision,) = policy.decide("old", [disk], RULES, policy.Facts(VOLUMES, RECORDS, {}))
    assert (decision.action, decision.resource) == ("replicate", "old-xvda")


def test_one_volume_twice_is_refused() -> None:
    disks = [{"vdev": vdev, "pdev_path": "/dev/vg0/web1", "format": "raw"} for vdev in ("xvda", "xvdb")]
    actions = [item.action for item in policy.decide("web1", disks, RULES, policy.Facts(VOLUMES, {}, {}))]
    assert actions == ["replicate", "refuse"]


def test_a_volume_beneath_a_foreign_resource_is_refused() -> None:
    disk = {"vdev": "xvda", "pdev_path": "/dev/vg0/web1", "format": "raw"}
    facts = policy.Facts(VOLUMES, {}, {"/dev/vg0/web1": "foreign"})
    assert policy.decide("web1", [disk], RULES, facts)[0].action == "refuse"


# resource files


def a_plan(*disks: plan.Disk) -> plan.Plan:
    made = disks or (
        plan.Disk(
            "xvda", "web1-xvda", 1000, 7800, 1 << 30, "vg0", "vg9", "web1", "ab" * 16, 1 << 22, 1 << 23
        ),
    )
    return plan.Plan("1f", "web1", "bob", "10.99.0.2", "alice", "10.99.0.1", "A", made)


def test_the_file_is_the_same_from_either_end_and_scans_back() -> None:
    here = a_plan()
    text = here.resource_file()
    assert text == here.seen_from("alice").resource_file()
    assert resfile.is_ours(text, "web1") and not resfile.is_ours(text, "web")
    assert resfile.secrets(text) == {"web1-xvda": "ab" * 16}
    for host, group in (("bob", "vg0"), ("alice", "vg9")):
        found, _ = resscan.scan_text(text, host)
        assert (found.names, found.minors, found.ports) == ({"web1-xvda"}, {1000}, {7800})
        assert set(found.volumes) == {f"/dev/{group}/web1", f"/dev/{group}/web1_xhmeta"}
    for line in (
        "fencing resource-only;",
        "protocol A;",
        "allow-two-primaries no;",
        "after-sb-2pri disconnect;",
    ):
        assert f" {line}\n" in text


def test_records_of_both_ends_mirror_each_other() -> None:
    here = a_plan()
    mine = here.record(here.disks[0], "now")
    theirs = here.seen_from("alice").record(here.seen_from("alice").disks[0], "now")
    assert mine["address"] == theirs["peer_address"] == "ipv4:10.99.0.2:7800"
    assert mine["peer_volume"] == theirs["volume"] == "/dev/vg9/web1"
    assert theirs["meta"] == "/dev/vg9/web1_xhmeta"


def test_a_plan_survives_its_journey_and_bad_ones_do_not() -> None:
    here = a_plan()
    tree = here.to_json()
    assert plan.from_json(json.dumps(tree)) == here
    disk = tree["resources"][0]
    for bad in (
        {**tree, "vm": "../x"},
        {**tree, "host": "a/b"},
        {**tree, "peer": "bob"},
        {**tree, "address": "10.99.0.1; rm"},
        {**tree, "protocol": "D"},
        {**tree, "resources": []},
        {**tree, "resources": [disk, disk]},
        {**tree, "extra": 1},
        *(
            {**tree, "resources": [{**disk, **change}]}
            for change in (
                {"group": "../x"},
                {"name": "a b"},
                {"minor": "1"},
                {"minor": True},
                {"size": -1},
                {"port": 0},
                {"resource": 'a"b'},
                {"vdev": "/"},
                {"fresh": 1},
                {"peer_group": ""},
                {"meta_size": 4096},
                {"peer_meta_size": None},
            )
        ),
    ):
        with pytest.raises(XenhelperError):
            plan.from_json(bad)
    with pytest.raises(XenhelperError):
        plan.from_json({**tree, "resources": [{**disk, "secret": 'x"; fence-peer "rm'}]}).resource_file()


def test_the_captured_foreign_file_is_scanned() -> None:
    found, _ = resscan.scan_text((CAPTURED / "web1.res").read_text(), "alice")
    assert found.names == {"web1-xvda", "web1-xvdb"}
    assert found.minors == {1000, 1001} and found.ports == {7800, 7801}
    assert found.volumes["/dev/vg0/web1-swap"] == "web1-xvdb"


@pytest.mark.parametrize(
    "text",
    [
        "resource r { device minor 7; address 10.0.0.1:77; }",
        "resource r { device /dev/drbd7; } resource r2 { address ipv6 [fd00::1]:77;",
        'resource "r" { volume 0 { device /dev/drbd_x minor 7; } on a { address ipv4 10.0.0.1 : 77; } }',
        "}}} bogus resource r { device /dev/drbd7 minor 7; # resource x {\n address 1.2.3.4:77; ",
        "resource r {\n device minor 7\n on {{{ address 1.2.3.4:77\n",
        "resource r {\n device /dev/drbd7\n address 1.2.3.4:77\n",
        'resource r { net { shared-secret "a#b{;"; } device drbd7; on a { address 1.2.3.4:77; } }',
    ],
)
def test_other_forms_and_broken_ones_are_scanned(text: str) -> None:
    found, _ = resscan.scan_text(text, "a")
    assert "r" in found.names and found.minors == {7} and found.ports == {77}


@given(st.text(alphabet=st.sampled_from(' \n{};"#resouc0123:/.on-devimhdk'), max_size=300))
def test_the_scan_takes_anything(text: str) -> None:
    resscan.scan_text(text, "a")
    resscan.scan_text("resource keep { device minor 5; }\n" + text, "a")[0].minors.issuperset({5})


@given(st.text(max_size=60))
def test_nothing_before_a_resource_hides_it(noise: str) -> None:
    # a quote left open, or a comment, reaches to the end of its line and no further
    text = noise.replace("\\", "") + "\nresource keep { device minor 5; }\n"
    found, _ = resscan.scan_text(text, "a")
    assert 5 in found.minors


def test_includes_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "DRBD_D", str(tmp_path / "drbd.d"))
    monkeypatch.setattr(paths, "DRBD_CONF", str(tmp_path / "drbd.conf"))
    (tmp_path / "drbd.d").mkdir()
    (tmp_path / "more").mkdir()
    (tmp_path / "drbd.conf").write_text('include "drbd.d/*.res"; include "more/*.conf"; include "/none";')
    (tmp_path / "drbd.d/a.res").write_text("resource a { device minor 1; }")
    (tmp_path / "drbd.d/b.res").write_bytes(b"\xff\xfe resource b { device minor 2; }")
    (tmp_path / "more/c.conf").write_text('resource c { device minor 3; } include "c.conf";')
    assert resscan.scan_host("x").minors == {1, 2, 3}
    assert resscan.scan_host("x", str(tmp_path / "drbd.d/a.res")).minors == {2, 3}


def test_proc_drbd() -> None:
    version, states = proc.parse(captured("proc-drbd-inconsistent-both-alice"))
    assert version == "8.4.11"
    state = states[1000]
    assert (state.role, state.peer_role, state.disk, state.peer_disk) == (
        "Secondary",
        "Secondary",
        "Inconsistent",
        "Inconsistent",
    )
    assert state.talks
    assert proc.parse(captured("proc-drbd-syncing-alice"))[1][1000].talks
    assert not proc.parse(captured("proc-drbd-disconnected-guest-writing-alice"))[1][1000].talks
    assert proc.parse(" 0: cs:Unconfigured\n") == ("", {})


@pytest.mark.parametrize(("text", "words"), [("version: 9.2.1 (api)\n", "9.2.1"), ("", "no DRBD module")])
def test_an_untested_or_missing_module_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    monkeypatch.setattr(proc, "run", lambda *_, **__: None)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/drbd").write_text(text)
    with pytest.raises(Refused, match=words):
        proc.require_module()


# allocation

numbers = st.frozensets(st.integers(0, 40), max_size=30)
surveys = st.builds(
    allocate.Survey, st.frozensets(st.sampled_from(["a_b-xvda", "a_b-xvdb", "a_b_2-xvda"])), numbers, numbers
)


@given(
    st.lists(surveys, min_size=1, max_size=3), st.lists(st.sampled_from(["xvda", "xvdb", "sda"]), unique=True)
)
def test_a_choice_is_free_everywhere_and_the_lowest(found: list[allocate.Survey], vdevs: list[str]) -> None:
    slots = allocate.choose("a.b", vdevs, found, (0, 45), (0, 45))
    assert [slot.vdev for slot in slots] == vdevs
    assert len({slot.minor for slot in slots}) == len({slot.port for slot in slots}) == len(vdevs)
    for slot in slots:
        names.check_resource(slot.resource)
        for survey in found:
            assert slot.resource not in survey.names
            assert slot.minor not in survey.minors and slot.port not in survey.ports
    if slots:
        taken = set().union(*(survey.minors for survey in found))
        assert all(number in taken for number in range(slots[0].minor))


def test_used_up_ranges_say_so() -> None:
    full = allocate.Survey(frozenset(), frozenset({1, 2}), frozenset())
    with pytest.raises(XenhelperError, match="no minor between 1 and 2"):
        allocate.choose("a", ["xvda"], [full], (1, 2), (1, 2))


def test_a_survey_sees_every_kind_of_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xenhelper import intents, statefile

    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    for name in ("RESOURCES", "INTENTS", "DRBD_D", "DRBD_CONF"):
        monkeypatch.setattr(paths, name, str(tmp_path / name))
    for folder in ("proc/net", "sys/block/drbd1003", "sys/block/sda", "DRBD_D"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "proc/drbd").write_text(captured("proc-drbd-connected-idle-alice"))
    (tmp_path / "proc/net/tcp6").write_text(" sl local\n  0: 00000000:1E78 0:0 0A 00\n")  # 7800
    (tmp_path / "DRBD_D/x.res").write_text("resource web1-x { device minor 1004; address 1.2.3.4:7801; }")
    statefile.write(f"{paths.RESOURCES}/web1-lost", {"minor": "1005", "port": "7802"})
    intents.write("replicate", "web2", id="x", plan=json.dumps(a_plan().to_json() | {"vm": "web2"}))
    found = allocate.survey("web1", (1000, 1099), (7800, 7899))
    assert found.minors == {1000, 1001, 1003, 1004, 1005}
    assert found.ports == {7800, 7801, 7802}
    assert found.names == {"web1-x", "web1-lost", "web1-xvda"}
    assert allocate.survey("web1", (1000, 1099), (7800, 7899), mine="x").names == {"web1-x", "web1-lost"}


def test_a_lease_is_one_at_a_time_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "LOCKS", str(tmp_path))
    token = lease.take("alice for web1")
    with pytest.raises(Refused, match="alice for web1"):
        lease.take("bob for web2", wait=0.0)
    with pytest.raises(XenhelperError, match="longer than"), lease.used("wrong"):
        raise AssertionError("must not be done")
    done = []
    with lease.used(token):
        done.append(1)
    second = lease.take("bob for web2", wait=0.0, local=False)
    assert done and second != token
    lease.give_back("wrong")
    with pytest.raises(Refused):
        lease.take("x", wait=0.0)
    monkeypatch.setattr(lease, "SECONDS", -1.0)
    lease.give_back(second)
    lease.take("expired at once", wait=0.0)
    monkeypatch.setattr(lease, "SECONDS", 60.0)
    script = f"from xenhelper import lease, paths; paths.LOCKS={str(tmp_path)!r}; lease.take('dies')"
    subprocess.run([sys.executable, "-c", script], check=True)
    lease.take("after its death", wait=0.0)


# xl's command line


@pytest.mark.parametrize(
    ("argv", "config", "overrides"),
    [
        ("create web1.cfg", "web1.cfg", []),
        ("cr web1.cfg", "web1.cfg", []),
        ("-v -vf create web1.cfg memory=1", "web1.cfg", ["memory=1"]),
        ("create --quiet --defconfig FILE", "FILE", []),
        ("create --quiet --defconfig=FILE", "FILE", []),
        ("create --def FILE -c", "FILE", []),
        ("create -qf FILE a=1", "FILE", ["a=1"]),
        ("create -fFILE -pe", "FILE", []),
        ("create a=1 web1.cfg b=2", "web1.cfg", ["a=1", "b=2"]),
        ("create web1.cfg -f other", "other", []),
        ("create -c -- web1.cfg -x=1", "web1.cfg", ["-x=1"]),
        ("create --ignore web1.cfg", "web1.cfg", []),
    ],
)
def test_creates_are_read_as_xl_reads_them(argv: str, config: str, overrides: list[str]) -> None:
    command = xlargs.parse(argv.split())
    assert command is not None
    assert (command.config, command.overrides) == (config, overrides)


@pytest.mark.parametrize(
    "argv",
    [
        "create",
        "create -n web1.cfg",
        "create web1.cfg -qn",
        "create web1.cfg --dryrun",
        "create --dry web1.cfg",
        "-N create web1.cfg",
        "-vN create web1.cfg",
        "create -h",
        "create --help web1.cfg",
        "create web1.cfg other.cfg",
        "create -x web1.cfg",
        "create --vnc web1.cfg",
        "create --quiet=1 web1.cfg",
        "create -f",
        "create a=1",
        "-x create web1.cfg",
        "",
    ],
)
def test_what_xl_deals_with_alone(argv: str) -> None:
    assert xlargs.parse(argv.split()) is None


def test_posixly_correct_stops_at_the_first_word() -> None:
    command = xlargs.parse(["create", "a=1", "-n", "x=1"], permute=False)
    assert command is not None and command.config == "-n"
    command = xlargs.parse(["create", "a=1", "w.cfg", "-n=1"], permute=False)
    assert command is not None and command.overrides == ["a=1", "-n=1"]


# the file on both hosts


def sent(text: str, agreed: str = "") -> vmfile.Sent:
    return vmfile.Sent(vmconfig.checksum(text), text, agreed)


def test_when_the_peers_config_is_replaced() -> None:
    block = vmconfig.compose("name='a'\n", "a", ("bob", "alice"), [])
    agreed = vmconfig.checksum("agreed")

    def call(there: vmfile.Sent, before: str, after: str) -> bool:
        return vmfile.must_send("/x", there, before, after, agreed, "bob")

    assert call(vmfile.Sent(), "a", block)
    assert not call(sent(block), "a", block)
    assert call(sent("agreed"), "changed", block)
    assert call(sent("name='a'\n"), "name='a'\n", block)
    assert call(sent(vmconfig.compose("name='a'\n", "a", ("bob", "alice"), ["x"])), "q", block)
    assert call(sent("theirs", agreed=vmconfig.checksum("theirs")), "q", block)
    with pytest.raises(vmfile.Conflict) as caught:
        call(sent("name='b'\n"), "name='a'\n", block)
    assert "-name='b'" in caught.value.diff and "+name='a'" in caught.value.diff


def test_where_a_peer_may_store_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    for folder in ("etc/xen/auto", "etc/xen/scripts", "srv", "etc/cron.d"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "etc/xen/link").symlink_to("/etc/passwd")
    (tmp_path / "way").symlink_to("srv")
    for good in ("/etc/xen/web1", "/etc/xen/web1.cfg", "/etc/xen/auto/web1", "/srv/web1.cfg"):
        assert vmfile.storable(good), good
    for bad in (
        "/etc/xen/scripts/block",
        "/etc/xen/xl.conf",
        "/etc/xen/oxenstored.conf",
        "/etc/xen/link",
        "/etc/xen/../passwd",
        "/etc/cron.d/x",
        "/srv/x",
        "/srv/.cfg",
        "etc/xen/x",
        "/etc/xen/no/x",
        "/way/x.cfg",
        "/etc/xen/",
        "/etc/xen/a\nb",
        "/etc/xen/auto",
    ):
        assert not vmfile.storable(bad), bad


def test_a_stored_config_keeps_its_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    (tmp_path / "a.cfg").write_text("x")
    (tmp_path / "a.cfg").chmod(0o640)
    vmfile.store("/a.cfg", "new")
    vmfile.store("/b.cfg", "new", 0o4777)
    assert (tmp_path / "a.cfg").stat().st_mode & 0o7777 == 0o640
    assert (tmp_path / "b.cfg").stat().st_mode & 0o7777 == 0o666


@settings(max_examples=200)
@given(st.text(max_size=30))
def test_no_name_gets_past_the_checks_into_a_path(name: str) -> None:
    try:
        resfile.path(name)
        volumes.tags_for(name, names.resource_name(name, "xvda"), 1, 1)
    except (UsageError, XenhelperError):
        return
    assert "/" not in name and not name.startswith((".", "-")) and name.isascii()


def test_a_thousand_resources_are_surveyed_quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    for name in ("RESOURCES", "INTENTS", "DRBD_D", "DRBD_CONF"):
        monkeypatch.setattr(paths, name, str(tmp_path / name))
    (tmp_path / "DRBD_D").mkdir()
    for n in range(500):
        disks = tuple(
            plan.Disk(
                v,
                f"vm{n}-{v}",
                1000 + 2 * n + i,
                7000 + 2 * n + i,
                1,
                "vg0",
                "vg0",
                f"v{n}{v}",
                "ab" * 16,
                9,
                9,
            )
            for i, v in enumerate(("xvda", "xvdb"))
        )
        (tmp_path / f"DRBD_D/vm{n}.res").write_text(a_plan(*disks).resource_file())
    began = time.process_time()
    found = allocate.survey("new", (1000, 2999), (7000, 8999))
    assert len(found.minors) == 1000
    assert time.process_time() - began < 5, "some hundred times what ten resources take"


def test_a_file_that_stops_drbdadm_is_told_from_one_that_does_not() -> None:
    ours = (CAPTURED / "web1.res").read_text()
    assert not resscan.unclosed(ours)
    assert not resscan.unclosed('# { in a comment\nresource r { net { shared-secret "}{"; } }\n')
    for broken in (ours.rpartition("}")[0], ours + "}\n", 'resource r { net { shared-secret "x; } }\n', "}{"):
        assert resscan.unclosed(broken), broken[-60:]


@pytest.mark.parametrize(
    ("need", "free", "chosen"),
    [
        ({"bob": {"vg0": 5}, "carol": {"vg0": 5}}, {"bob": {"vg0": 9}, "carol": {"vg0": 10}}, "carol"),
        ({"bob": {"vg0": 5}, "carol": {"vg0": 5}}, {"bob": {"vg0": 9}, "carol": {"vg0": 9}}, "bob"),
        # the fullest group counts
        (
            {"bob": {"a": 1, "b": 1}, "carol": {"a": 1}},
            {"bob": {"a": 99, "b": 2}, "carol": {"a": 3}},
            "carol",
        ),
        ({"bob": {"vg0": 5}, "carol": {"vg0": 5}}, {"bob": {"vg0": 4}, "carol": {"vg0": 5}}, "carol"),
        ({"bob": {"vg0": 5}, "carol": {"vg0": 5}}, {"carol": {"vg0": 4}}, ""),
        ({"bob": {"vg0": 5}}, {"bob": {"vg1": 50}}, ""),
        ({}, {}, ""),
    ],
)
def test_the_peer_with_the_most_space_left(
    need: "dict[str, dict[str, int]]", free: "dict[str, dict[str, int]]", chosen: str
) -> None:
    assert policy.roomiest(need, free) == chosen


def test_a_silent_peer_is_passed_over_and_a_full_one_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    from xenhelper import config, consider
    from xenhelper.errors import PeerUnreachable

    peers = [config.Peer(name, "", "", "", {"vg0": "vg0"}) for name in ("bob", "carol", "dave")]
    wanted = [volumes.Volume("vg0", "web1", 10 << 30)]
    free = {"bob": 20 << 30, "carol": 30 << 30}

    def ask(peer: str, verb: str, args: object, timeout: float) -> "dict[str, object]":
        if peer not in free:
            raise PeerUnreachable(f"{peer} gave no answer")
        return {"volume_groups": {"vg0": {"size": 1 << 40, "free": free[peer]}}}

    monkeypatch.setattr(consider, "ask", ask)
    assert consider._roomiest("web1", peers, wanted) == "carol"
    free["carol"] = 10 << 30  # the data alone, without its metadata
    assert consider._roomiest("web1", peers, wanted) == "bob"
    free["bob"] = 0
    with pytest.raises(Refused, match="none of bob, carol, dave has room"):
        consider._roomiest("web1", peers, wanted)
    free.clear()
    with pytest.raises(PeerUnreachable, match="no peer that could take web1's replica answers"):
        consider._roomiest("web1", peers, wanted)
