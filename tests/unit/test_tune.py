"""`xenhelper tune`: what is decided from what was read, each thing on its own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xenhelper import config, paths, statefile
from xenhelper.cli import main
from xenhelper.doctor.finding import SEVERITIES
from xenhelper.errors import CommandFailed, XenhelperError
from xenhelper.run import Result
from xenhelper.tuning import apply, bootfiles, findings, items, keep, look, probes, publish, story
from xenhelper.tuning.blockdev import Geometry
from xenhelper.tuning.bootfiles import Facts
from xenhelper.tuning.items import Array, Call, Device, Host, Item, Write
from xenhelper.tuning.publish import Guest
from xenhelper.tuning.settings import Tuning
from xenhelper.tuning.topology import Stripes

CAPTURED = Path(__file__).parent / "captured"
TCP = {"net.ipv4.tcp_rmem": "4096 131072 6291456", "net.ipv4.tcp_wmem": "4096 16384 4194304"}
RAID = {"dev.raid.speed_limit_min": "1000", "dev.raid.speed_limit_max": "200000"}
HOST = Host(
    memory=1024, memory_used=300, memory_max=8192, scheduler="credit2", weight=256, sysctls=TCP | RAID
)


def one(name: str, host: Host = HOST, **asked: Any) -> Item:
    found = [item for item in items.decide(host, Tuning(**asked)) if item.name == name]
    assert len(found) == 1, found
    return found[0]


def names(host: Host = HOST, **asked: Any) -> list[str]:
    return [item.name for item in items.decide(host, Tuning(**asked))]


def test_memory_that_isnt_configured_is_left_alone() -> None:
    assert "dom0 memory" not in names()


def test_memory_is_set_but_never_below_what_dom0_needs() -> None:
    assert one("dom0 memory", dom0_memory=4096).steps == (Call(("xl", "mem-set", "0", "4096m")),)
    assert one("dom0 memory", replace(HOST, memory=4090), dom0_memory=4096).steps == (), "xl rounds"
    low = one("dom0 memory", dom0_memory=400)
    assert low.steps == (Call(("xl", "mem-set", "0", "812m")),) and "uses 300" in low.why


def test_memory_beyond_this_boots_limit_is_told_and_not_tried() -> None:
    item = one("dom0 memory", dom0_memory=9000)
    assert not item.steps and "8192" in item.trouble and "--write" in item.trouble


@pytest.mark.parametrize("scheduler", ["credit", "credit2"])
def test_weight_goes_through_the_scheduler_that_runs(scheduler: str) -> None:
    command = {"credit": "sched-credit", "credit2": "sched-credit2"}[scheduler]
    item = one("dom0 weight", replace(HOST, scheduler=scheduler))
    assert item.steps == (Call(("xl", command, "-d", "0", "-w", "1024")),)
    assert one("dom0 weight", replace(HOST, scheduler=scheduler, weight=1024)).steps == ()


def test_a_scheduler_without_weights_is_told() -> None:
    item = one("dom0 weight", replace(HOST, scheduler="null", weight=None))
    assert not item.steps and "credit2" in item.trouble
    assert "dom0 weight" not in names(dom0_weight=0)


def test_pinning() -> None:
    host = replace(HOST, cpus="all", online_cpus=8)
    assert one("dom0 CPUs", host, dom0_cpus="0-1").steps == (Call(("xl", "vcpu-pin", "0", "all", "0-1")),)
    assert one("dom0 CPUs", replace(host, cpus="0-1"), dom0_cpus="1,0").steps == ()
    assert one("dom0 CPUs", host, dom0_cpus="0-7").steps == (), "all of them is what `all` is"
    assert "0 to 7" in one("dom0 CPUs", host, dom0_cpus="8").trouble
    assert "dom0 CPUs" not in names(host)


def test_tcps_bounds_are_raised_and_never_lowered() -> None:
    item = one("net.ipv4.tcp_rmem")
    assert item.steps == (Write("/proc/sys/net/ipv4/tcp_rmem", "4096 1048576 16777216"),)
    large = replace(HOST, sysctls={"net.ipv4.tcp_rmem": "8192 2097152 67108864"})
    assert one("net.ipv4.tcp_rmem", large).steps == ()
    small = one("net.ipv4.tcp_rmem", replace(HOST, memory=256))
    assert small.wanted.split()[2] == str(6291456), "a 64th of 256 MiB is less than what was there"
    assert not any(name.startswith("net.") for name in names(tcp_buffers=False))


def test_md_only_where_there_is_md() -> None:
    assert not any(name.startswith("dev.raid") for name in names())
    host = replace(HOST, arrays=(Array("md0", "raid1", 2, 0), Array("md1", "raid6", 6, 256)))
    assert one("dev.raid.speed_limit_max", host).wanted == "500000"
    assert one("dev.raid.speed_limit_min", host).steps == (
        Write("/proc/sys/dev/raid/speed_limit_min", "10000"),
    )
    assert [name for name in names(host) if "cache" in name] == ["md1 stripe cache"]
    assert not any("raid" in name for name in names(host, md_resync=(0, 0), md_stripe_cache=False))


@pytest.mark.parametrize(
    ("members", "memory", "pages"), [(4, 8192, 4096), (6, 1024, 1024), (24, 768, 256), (4, 0, 256)]
)
def test_the_stripe_cache_fits_dom0s_memory(members: int, memory: int, pages: int) -> None:
    assert items.stripe_cache(members, memory) == pages
    assert pages == 256 or pages * 4 * members <= memory * 1024 // 32


def test_an_administrators_larger_cache_stays() -> None:
    host = replace(HOST, arrays=(Array("md1", "raid5", 4, 8192),))
    assert one("md1 stripe cache", host).steps == ()


def test_read_ahead_of_a_device() -> None:
    host = replace(HOST, devices=(Device("/dev/drbd_web1-xvda", "drbd1000", 128, 4096, "no stripes"),))
    item = one("/dev/drbd_web1-xvda read-ahead", host)
    assert item.steps == (Write("/sys/block/drbd1000/queue/read_ahead_kb", "4096"),)


def test_one_thing_that_cant_be_read_doesnt_stop_the_others() -> None:
    host = replace(HOST, errors=(("dom0 weight", "xl info failed"),))
    found = items.decide(host, Tuning(dom0_memory=2048))
    assert [item.trouble for item in found if item.name == "dom0 weight"] == ["xl info failed"]
    assert [bool(item.steps) for item in found if item.name == "dom0 memory"] == [True]


def test_what_xl_prints() -> None:
    assert look.parse_memory((CAPTURED / "xl-list.txt").read_text()) == 768
    with pytest.raises(XenhelperError):
        look.parse_memory("web1 1 128 1 ------ 18.8")
    credit2 = "Cpupool Pool-0: sched=CREDIT2\nName  ID Weight  Cap\nDomain-0  0    256   0\n"
    assert look.parse_weight(credit2) == 256
    vcpus = "Name ID VCPU CPU State Time(s) Affinity (Hard / Soft)\nDomain-0  0  0  0  r--  9.1  {} / all\n"
    assert look.parse_affinity(vcpus.format("all")) == "all"
    assert look.parse_affinity(vcpus.format("0-1,4")) == "0-1,4"
    assert look.parse_affinity(vcpus.format("0") + "Domain-0 0 1 1 -b- 8.0 1 / all\n") == "mixed"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    monkeypatch.setattr(paths, "RUN", str(tmp_path / "run/xenhelper"))
    monkeypatch.setattr(apply, "READ_AHEAD", str(tmp_path / "run/xenhelper/read-ahead"))
    monkeypatch.setattr(probes, "FOLDER", str(tmp_path / "volumes"))
    monkeypatch.setattr(apply.domains, "real_xl", lambda: "/usr/lib/xen/xl")
    return tmp_path


def put(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_each_item_is_applied_on_its_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def run(argv: list[str], **_: Any) -> Result:
        calls.append(argv)
        raise CommandFailed(argv, 1, "no such domain", 0)

    monkeypatch.setattr(apply, "run", run)
    file = put(root, "sys/block/md0/queue/read_ahead_kb", "128")
    good = Item(
        "md0 read-ahead",
        "128 KiB",
        "3072 KiB",
        "w",
        "h",
        (Write("/sys/block/md0/queue/read_ahead_kb", "3072"),),
    )
    bad = Item("dom0 weight", "256", "1024", "w", "h", (Call(("xl", "sched-credit2", "-d", "0")),))
    missing = Item("x", "1", "2", "w", "h", (Write("/sys/none", "2"),))
    fine = Item("y", "1", "1", "w", "h")
    changed, failed = apply.apply([bad, missing, good, fine])
    assert file.read_text().strip() == "3072"
    assert calls == [["/usr/lib/xen/xl", "sched-credit2", "-d", "0"]]
    assert [line.split(":")[0] for line in changed] == ["md0 read-ahead"]
    assert [line.split(":")[0] for line in failed] == ["dom0 weight", "x"]


def test_a_dry_run_changes_nothing(root: Path) -> None:
    item = Item("md0 read-ahead", "128 KiB", "3072 KiB", "w", "h", (Write("/sys/none", "3072"),))
    assert apply.apply([item], dry_run=True) == (["md0 read-ahead: 128 KiB becomes 3072 KiB (w)"], [])


def test_memory_that_isnt_reached_is_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "run", lambda argv, **_: Result(0, "", ""))
    monkeypatch.setattr(apply, "_REACH", 0.0)
    sizes = iter([4090, 900])
    monkeypatch.setattr(look, "dom0_memory", lambda: next(sizes))
    item = one("dom0 memory", dom0_memory=4096)
    assert apply.apply([item])[1] == []
    assert "900 MiB of 4096" in apply.apply([item])[1][0]


def test_udev_finds_each_devices_value_by_a_name_that_lasts(root: Path) -> None:
    put(root, "sys/block/dm-3/dm/name", "vg0-web1--root\n")
    devices = (
        Device("/dev/vg0/web1-root", "dm-3", 128, 1024, "w"),
        Device("/dev/drbd_web1-xvda", "drbd1000", 128, 1024, "w"),
    )
    gone = put(root, "run/xenhelper/read-ahead/drbd1001", "XENHELPER_READ_AHEAD=1\n")
    apply.leave_for_udev(items.decide(replace(HOST, devices=devices), Tuning()))
    left = {path.name: path.read_text() for path in gone.parent.iterdir()}
    assert left == dict.fromkeys(("vg0-web1--root", "drbd1000"), "XENHELPER_READ_AHEAD=1024\n")


def test_a_disk_that_becomes_replicated_has_its_values_at_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = put(root, "sys/block/drbd1000/queue/read_ahead_kb", "128\n")
    kept = put(root, "run/xenhelper/read-ahead/drbd7", "XENHELPER_READ_AHEAD=1\n")
    monkeypatch.setattr(apply.blockdev, "tables", dict)
    apply.adopted(RECORD | {"minor": "1000", "volume": "/dev/vg0/web1-root"})
    assert file.read_text().strip() == "4096"
    assert (kept.parent / "drbd1000").exists() and kept.exists()
    assert (root / "volumes/vg0/web1-root").exists()

    def full(volume: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(apply.probes, "mark", full)
    apply.adopted(RECORD)  # a create goes on


def test_the_watcher_puts_back_what_a_connect_took(root: Path) -> None:
    file = put(root, "sys/block/drbd1000/queue/read_ahead_kb", "128\n")
    records = [{"minor": "1000"}, {"minor": "1001"}, {}]
    assert keep.look(records) == 0, "nothing was tuned yet"
    put(root, "run/xenhelper/read-ahead/drbd1000", "XENHELPER_READ_AHEAD=4096\n")
    assert keep.look(records) == 1 and file.read_text() == "4096"
    assert keep.look(records) == 0


def test_marks_of_volumes(root: Path) -> None:
    probes.mark("/dev/vg0/web1-root")
    probes.mark("/dev/mapper/vg0-web1--swap")
    assert (root / "volumes/vg0/web1-root").exists() and (root / "volumes/vg0/web1-swap").exists()
    probes.unmark("/dev/vg0/web1-root")
    probes.unmark("/dev/vg0/web1-swap")
    assert not (root / "volumes").exists()
    probes.mark("/dev/../etc/passwd")
    assert not (root / "volumes").exists()


# what guests get


def settings(**asked: Any) -> config.Config:
    return config.Config(
        "alice", "10.98.0.1", "10.99.0.1", {}, (), (), (), (), (1, 2), (1, 2), "A", tuning=Tuning(**asked)
    )


RAID5 = Geometry(Stripes(512, 3, "raid5 of 4, 512 KiB (md0)"), True)
RECORD = {"resource": "web1-xvda", "vm": "web1", "vdev": "xvda"}


@pytest.mark.parametrize(
    ("asked", "kib"),
    [
        ({}, 3072),
        ({"guest_read_ahead": 2048}, 2048),
        ({"guest_read_ahead": 2048, "read_ahead": (("db-*", 64), ("web1", 256))}, 256),
        ({"read_ahead": (("web1/xvdb", 64), ("web*/xvda", 512), ("web1", 256))}, 512),
        ({"read_ahead": (("web", 64), ("*/xvdb", 64))}, 3072),
    ],
)
def test_the_administrators_word_comes_first(asked: dict[str, Any], kib: int) -> None:
    assert publish.wanted(RECORD, settings(**asked), RAID5).kib == kib


def test_a_create_never_fails_for_its_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise XenhelperError("no")

    monkeypatch.setattr(publish.blockdev, "tables", broken)
    assert publish.for_record(RECORD, settings()) == "4096"


def test_records_are_refreshed_but_not_of_a_vm_under_change(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RESOURCES", "INTENTS", "LOCKS"):
        monkeypatch.setattr(paths, name, str(root / name.lower()))
    records = {f"{vm}-xvda": {"vm": vm, "vdev": "xvda", "resource": f"{vm}-xvda"} for vm in ("web1", "web2")}
    for name, record in records.items():
        statefile.write(f"{paths.RESOURCES}/{name}", record)
    statefile.write(f"{paths.INTENTS}/window-web2", {"kind": "window", "vm": "web2"})
    changed, failed = publish.refresh(records, settings(), {})
    assert len(changed) == 1 and "web1-xvda" in changed[0] and "4096" in changed[0]
    assert len(failed) == 1 and "web2" in failed[0]
    assert (statefile.read(f"{paths.RESOURCES}/web1-xvda") or {})[publish.RECORD] == "4096"
    assert publish.RECORD not in (statefile.read(f"{paths.RESOURCES}/web2-xvda") or {})


def test_a_guests_claim_is_only_a_claim() -> None:
    assert Guest("web1", "web1-xvda", 3, "4096", "4096").state == "applied"
    assert Guest("web1", "web1-xvda", 3, "4096", "128").state == "published"
    assert Guest("web1", "web1-xvda", 3, "4096", "").state == "published"
    assert Guest("web1", "web1-xvda", 3, "", "4096").state == "unknown"
    assert [publish._number(text) for text in ("4096", "", "x" * 5000, "٤", "-1", "12345678")] == ["4096"] + [
        ""
    ] * 5


# the boot loader and others' files

LINE = "dom0_mem=768M,max:768M sched=credit2"


def test_nothing_configured_asks_nothing_of_the_boot_loader() -> None:
    facts = Facts(LINE, global_filter='global_filter=["r|^/dev/drbd|"]')
    assert bootfiles.decide(facts, Tuning()) == []


def test_the_command_line_has_all_or_is_written_whole() -> None:
    asked = Tuning(dom0_memory=4096, dom0_cpus="0-1", pci_passthrough=True)
    facts = Facts(LINE, "pv hvm hap", global_filter="drbd")
    (advice,) = bootfiles.decide(facts, asked)
    assert advice.path == "/etc/default/grub.d/xenhelper.cfg" and advice.severity == "warning"
    assert "dom0_mem=4096M,max:4096M dom0_max_vcpus=2 iommu=1" in advice.text
    assert not advice.written and "update-grub" in advice.after
    assert bootfiles.decide(replace(facts, grub=advice.text), asked)[0].written
    there = replace(
        facts, xen_command_line="dom0_mem=4096M,max:4096M dom0_max_vcpus=2", virt_caps="hvm hvm_directio"
    )
    assert bootfiles.decide(there, asked) == []
    # only the IOMMU is missing: what is in force stays in the file
    (again,) = bootfiles.decide(replace(there, virt_caps="hvm"), asked)
    assert again.text == advice.text


def test_autoballoon_matters_only_without_dom0_mem() -> None:
    asked, facts = Tuning(dom0_memory=4096), Facts("sched=credit2", global_filter="drbd")
    assert [advice.name for advice in bootfiles.decide(facts, asked)] == ["Xen's command line", "autoballoon"]
    assert (
        len(bootfiles.decide(replace(facts, xl_conf='#autoballoon="auto"\nautoballoon="off"\n'), asked)) == 1
    )
    assert len(bootfiles.decide(replace(facts, xl_conf='autoballoon="auto"\n'), asked)) == 2


def test_somebodys_own_lvm_filter_is_not_replaced() -> None:
    (advice,) = bootfiles.decide(Facts(global_filter='global_filter=["r|/dev/sr0|"]'), Tuning())
    assert advice.kind == bootfiles.SHOW and "r|/dev/sr0|" in advice.text


def test_the_hosts_own_volume_groups_on_drbd_stay_seen() -> None:
    own = bootfiles.own_pvs("  /dev/sda2\n  /dev/drbd0\n  /dev/drbd1000\n", [{"minor": "1000"}])
    assert own == ("/dev/drbd0",)
    (advice,) = bootfiles.decide(Facts(drbd_pvs=own), Tuning())
    assert '[ "a|^/dev/drbd0$|", "r|^/dev/drbd|" ]' in advice.text


def test_writing_twice_changes_nothing_and_keeps_what_others_wrote(root: Path) -> None:
    lvm = put(root, "etc/lvm/lvmlocal.conf", "local {\n}")
    found = bootfiles.decide(Facts("", xendomains='XENDOMAINS_SAVE="/x"\n'), Tuning(dom0_memory=4096))
    assert bootfiles.write(found, dry_run=True)[0] and lvm.read_text() == "local {\n}"
    changed, failed = bootfiles.write(found)
    assert [line.split(":")[0] for line in changed] == [
        "/etc/lvm/lvmlocal.conf", "/etc/default/grub.d/xenhelper.cfg", "/etc/xen/xl.conf"
    ]  # fmt: skip
    text = lvm.read_text()
    assert text.startswith("local {\n}\n# >>> xenhelper tune --write") and "r|^/dev/drbd|" in text
    bootfiles.write(found)
    assert lvm.read_text() == text and failed == []
    grub = (root / "etc/default/grub.d/xenhelper.cfg").read_text()
    assert 'GRUB_CMDLINE_XEN_DEFAULT="$GRUB_CMDLINE_XEN_DEFAULT dom0_mem=4096M,max:4096M"' in grub


# what is shown, and what doctor says

NO_CPU = "this host has CPUs 0 to 7 only; correct [tuning] dom0_cpus"
FILES = Facts(LINE, drbd_service="enabled", xendomains='XENDOMAINS_SAVE="/x"')
SHOWN = story.Shown(
    items=(
        Item("dom0 weight", "256 (credit2)", "1024 (credit2)", "why", "how", (Call(("xl",)),)),
        Item("dom0 CPUs", "all", "9", "why", "how", (), NO_CPU),
        Item("fine", "1", "1", "why", "how"),
    ),
    volumes=(story.Volume("web1", "xvda", "web1-xvda", 3072, "2 x 3 x 512 KiB", 128, 384),),
    guests=(Guest("web1", "web1-xvda", 3, "3072", ""), Guest("web2", "web2-xvda", 4, "4096", "4096")),
    advices=tuple(bootfiles.decide(FILES, Tuning(dom0_memory=4096))),
    errors=(),
)


def test_the_table_says_what_to_do_with_each() -> None:
    text = story.text(SHOWN)
    assert "dom0 weight *" in text and "dom0 CPUs !" in text and "fine *" not in text
    assert "tune2fs -E stride=128,stripe_width=384 /dev/xvda" in text
    assert "/etc/default/grub.d/xenhelper.cfg" in text and 'global_filter = [ "r|^/dev/drbd|" ]' in text
    web1 = next(line for line in text.splitlines() if line.startswith("web1-xvda"))
    assert web1.split()[:3] == ["web1-xvda", "3072", "published"]


def test_json_has_the_same() -> None:
    tree = json.loads(json.dumps(story.as_json(SHOWN, "alice")))
    assert [item["state"] for item in tree["items"]] == ["differs", "trouble", "ok"]
    guest = tree["guests"][0]
    assert (guest["published_kib"], guest["claimed_kib"], guest["state"]) == (3072, None, "published")
    assert tree["volumes"][0]["stripe_width"] == 384


def test_findings_have_a_remedy_each() -> None:
    found = findings.judge(SHOWN, "alice", "disabled")
    assert all(finding.do and "\n" not in finding.what + finding.do for finding in found)
    assert {finding.severity for finding in found} <= set(SEVERITIES)
    by = {finding.what: finding for finding in found}
    assert any("1024" in what and finding.do == "xenhelper tune" for what, finding in by.items())
    assert any("0 to 7" in what and "dom0_cpus" in finding.do for what, finding in by.items())
    assert any("drbd.service" in what and finding.severity == "warning" for what, finding in by.items())
    assert any("xenhelper-tune.service is disabled" in what for what in by)
    guests = [finding for finding in found if finding.vm]
    assert [finding.vm for finding in guests] == ["web1"] and "guest-install web1" in guests[0].do
    fine = replace(SHOWN, items=SHOWN.items[2:], guests=SHOWN.guests[1:], advices=())
    assert findings.judge(fine, "alice") == []


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["tune", "--json"]) == 2
    assert main.main(["tune", "web1"]) == 2
    assert "--resync" in capsys.readouterr().err


def test_dom0_is_known_without_xenfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    features = tmp_path / "sys/hypervisor/properties/features"
    features.parent.mkdir(parents=True)
    assert look.is_dom0() is False
    features.write_text("000007ff\n")  # a guest
    assert look.is_dom0() is False
    features.write_text("00002eff\n")  # Debian 12's dom0, in a unit that is kept off the cgroups
    assert look.is_dom0() is True
    features.unlink()
    capabilities = tmp_path / "proc/xen/capabilities"
    capabilities.parent.mkdir(parents=True)
    capabilities.write_text("control_d\n")
    assert look.is_dom0() is True
