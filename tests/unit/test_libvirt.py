"""VMs of libvirt: their XML, the hook's decisions, what is settled after a migration."""

import os
from pathlib import Path

import pytest

from xenhelper import intents, paths, statefile, virt
from xenhelper.errors import Refused, XenhelperError
from xenhelper.virt import api, definition, devices, hold, hook, moving, saved, settle
from xenhelper.xen import domains

# in the form that libvirt writes (virDomainDefFormat): its own test files for this driver show it
SAMPLES = Path(__file__).parent / "captured/libvirt"
PVH, HVM = ((SAMPLES / f"{name}.xml").read_text() for name in ("pvh", "hvm"))
UUID = "9bd0a8a6-2a1f-4c2b-9e9f-5d6c8c0b9f01"


def record(vm: str, vdev: str, minor: int, volume: str) -> dict[str, str]:
    return {
        "resource": f"{vm}-{vdev}",
        "vm": vm,
        "vdev": vdev,
        "minor": str(minor),
        "volume": f"/dev/vg0/{volume}",
        "meta": f"/dev/vg0/{volume}_xhmeta",
        "peer": "bob",
    }


RECORDS = {
    "web1-xvda": record("web1", "xvda", 1000, "web1-root"),
    "win1-hda": record("win1", "hda", 1001, "win1"),
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RESOURCES", "RUN", "LOCKS", "INTENTS", "VMS"):
        monkeypatch.setattr(paths, name, str(tmp_path / name.lower()))
    for module, name, value in (
        (moving, "_ANNOUNCED", "announced"),
        (hold, "_HELD", "held"),
    ):
        monkeypatch.setattr(module, name, str(tmp_path / value))
    for name, values in RECORDS.items():
        statefile.write(f"{paths.RESOURCES}/{name}", values)
    return tmp_path


# -- XML -----------------------------------------------------------------------------


def test_what_matters_of_a_definition_is_read() -> None:
    found = definition.parse(PVH)
    assert (found.name, found.uuid, found.kind, found.memory_kib) == ("web1", UUID, "pvh", 524288)
    assert found.bridges == ("xenbr0",) and found.files == ("/boot/vmlinuz", "/boot/initrd.img")
    assert [(d.vdev, d.path, d.driver, d.device, d.writable) for d in found.disks] == [
        ("xvda", "/dev/vg0/web1-root", "phy", "disk", True),
        ("xvdb", "/dev/vg0/web1-swap", "", "disk", True),
        ("xvdc", "/srv/iso/debian.iso", "qemu", "cdrom", False),
    ]
    assert [disk.as_xl()["backend"] for disk in found.disks] == ["phy", "unknown", "qdisk"]
    hvm = definition.parse(HVM)
    assert (hvm.kind, hvm.memory_kib, hvm.disks[0].path, hvm.disks[1].path) == (
        "hvm",
        4 << 20,
        "/dev/drbd1001",
        "",
    )


@pytest.mark.parametrize(
    ("memory", "kib"),
    [("<memory>7</memory>", 7), ("<memory unit='GiB'>2</memory>", 2 << 20), ("<memory/>", 0)],
)
def test_units_of_memory(memory: str, kib: int) -> None:
    assert definition.parse(f"<domain><name>a</name>{memory}</domain>").memory_kib == kib


def test_only_the_disks_that_are_named_are_exchanged() -> None:
    new = definition.exchanged(PVH, {"xvda": "/dev/drbd1000"})
    assert [disk.path for disk in definition.parse(new).disks] == [
        "/dev/drbd1000",
        "/dev/vg0/web1-swap",
        "/srv/iso/debian.iso",
    ]
    assert definition.same_but_for_disks(PVH, new)
    assert "<xen:arg" in new and "libosinfo" in new, "what xenhelper knows nothing of stays"
    back = definition.exchanged(new, {"xvda": "/dev/vg0/web1-root"})
    assert back == definition.exchanged(PVH, {})
    assert not definition.same_but_for_disks(PVH, new.replace("524288", "524289", 1))
    with pytest.raises(XenhelperError, match="no disk xvdz"):
        definition.exchanged(PVH, {"xvdz": "/dev/drbd1000"})
    with pytest.raises(XenhelperError, match="is no block device"):
        definition.exchanged(PVH, {"xvdc": "/dev/drbd1000"})


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE domain [<!ENTITY a "b">]><domain><name>&a;</name></domain>',
        '<!doctype domain SYSTEM "file:///etc/shadow"><domain><name>web1</name></domain>',
        "<domain><name>web1</name>",
        "<network><name>web1</name></network>",
        "<domain><uuid>1</uuid></domain>",
        "<domain><name>web1</name>" + " " * definition.MAX_BYTES + "</domain>",
        "",
        "\0",
    ],
)
def test_what_libvirt_would_not_write_is_refused(text: str) -> None:
    with pytest.raises(XenhelperError):
        definition.parse(text)


# -- which resource ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "resource", "beneath"),
    [
        ("/dev/drbd1000", "web1-xvda", ""),
        ("/dev/drbd_web1-xvda", "web1-xvda", ""),
        ("/dev/drbd/by-res/web1-xvda/0", "web1-xvda", ""),
        ("/dev/my-link", "web1-xvda", ""),
        ("/dev/drbd100", "", ""),
        ("/dev/drbd7", "", ""),
        ("/dev/vg0/web1-root", "", "web1-xvda"),
        ("/dev/mapper/vg0-web1--root", "", "web1-xvda"),
        ("/dev/vg0/win1_xhmeta", "", "win1-hda"),
        ("/srv/disk.img", "", ""),
    ],
)
def test_a_path_is_a_resource_or_beneath_one(path: str, resource: str, beneath: str) -> None:
    numbers = {"/dev/my-link": "93:3e8", "/dev/vg0/web1-root": "fe:1", "/dev/mapper/vg0-web1--root": "fe:1"}
    number = lambda path: numbers.get(path, "")  # noqa: E731
    assert devices.resource_at(path, RECORDS, number) == resource
    assert devices.beneath_at(path, RECORDS, number) == beneath


def test_the_hook_minds_only_its_own() -> None:
    call = hook.look("win1", definition.parse(HVM), RECORDS)
    assert call is not None and list(call.records) == ["win1-hda"] and call.peer == "bob"
    assert hook.look("win1", definition.parse(HVM.replace("drbd1001", "drbd7")), RECORDS) is None
    assert call.others == ()
    read_only = definition.exchanged(PVH, {"xvda": "/dev/drbd1000"}).replace(
        '<target dev="xvda" bus="xen" />', '<target dev="xvda" bus="xen" /><readonly />'
    )
    found = hook.look("web1", definition.parse(read_only), RECORDS)
    assert found is not None and found.read_only == {"web1-xvda"}
    assert found.others == ("/dev/vg0/web1-swap",), "the CD-ROM is none of them"


def test_a_disk_that_is_not_replicated_keeps_a_vm_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Settings:
        shared_volumes = ("san/*", "vg0/all-*")

    monkeypatch.setattr("xenhelper.config.load", Settings)
    call = call_of()
    call.others = ("/dev/san/x", "/dev/mapper/vg0-all--of--it")
    moving._check_others(call)
    call.others = ("/dev/san/x", "/dev/vg0/web1-swap")
    with pytest.raises(Refused, match="/dev/vg0/web1-swap is neither replicated nor declared shared"):
        moving._check_others(call)
    call.others = ("/srv/disk.img",)
    with pytest.raises(Refused, match="/srv/disk.img is neither"):
        moving._check_others(call)


@pytest.mark.parametrize(
    ("name", "xml", "says"),
    [
        ("web1", PVH, "beneath DRBD resource web1-xvda"),
        ("web2", PVH.replace("vg0/web1-root", "drbd1000"), "is web1-xvda of VM web1"),
        ("web1", PVH.replace("vg0/web1-root", "drbd1000").replace("'phy'", "'qemu'"), "has driver 'qemu'"),
    ],
)
def test_the_hook_refuses_what_would_harm(name: str, xml: str, says: str) -> None:
    with pytest.raises(Refused, match=says):
        hook.look(name, definition.parse(xml), RECORDS)


def test_nothing_is_asked_of_a_domain_that_is_not_ours(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = PVH.replace("web1", "other")
    for operation in ("prepare", "migrate", "start", "started", "stopped", "release", "reconnect"):
        assert hook.called("other", operation, other) == 0
    assert hook.called("other", "start", "<no XML") == 0
    assert hook.called("Domain-0", "start", HVM) == 0
    assert capsys.readouterr() == ("", "")
    assert not (root / "run").exists()


def test_a_start_beneath_drbd_fails_and_a_release_never_does(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hook.called("web1", "start", PVH) == 3
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(
        "xenhelper: web1: disk xvda (/dev/vg0/web1-root) is beneath"
    )
    assert hook.called("web1", "release", PVH) == 0
    assert hook.called("web1", "start", "<domain> drbd") == 3


def test_a_domain_that_was_started_is_not_destroyed_for_our_trouble(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise XenhelperError("a record can't be read")

    monkeypatch.setattr(devices, "records", broken)
    assert hook.called("web1", "started", PVH) == 0
    assert hook.called("web1", "start", PVH) == 1
    statefile.write(
        intents.path("window", "web1"),
        {"kind": "window", "vm": "web1", "by": virt.BY, "destination": os.uname().nodename},
    )
    assert hook.called("web1", "started", PVH) == 1, "an incoming one has to be handed over"


# -- a migration's announcement ------------------------------------------------------


def call_of(uuid: str = UUID) -> hook.Call:
    return hook.Call("web1", uuid, {"web1-xvda": RECORDS["web1-xvda"]}, set())


def test_an_announcement_counts_once_for_this_domain_and_daemon(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not moving.open_if_announced(call_of())
    moving.announce("web1", UUID)
    assert moving._announced(call_of()) and not moving._announced(call_of())
    moving.announce("web1", UUID)
    assert not moving._announced(call_of("753dac86-3e3b-4a61-902e-000000000000"))
    moving.announce("web1", UUID)
    monkeypatch.setattr(os, "getppid", lambda: 4711)
    assert not moving._announced(call_of()), "another libvirtd"
    moving.announce("web1", UUID)
    now = moving._boottime()
    monkeypatch.setattr(moving, "_boottime", lambda: now + 1000)
    assert not moving._announced(call_of()), "an old one"


def test_an_announcement_without_a_definition_is_by_the_name_of_a_vm_of_libvirts(root: Path) -> None:
    """libvirtd 11.3.0, journal: unsupported flags (0x8) in function virDomainDefFormat; the hook is
    called all the same, with nothing."""
    for name in ("web1", "other", "-x"):
        assert hook.called(name, "migrate", "") == 0
    assert not moving._announced(call_of()), "it is xl's"
    statefile.write(f"{paths.VMS}/web1", {"vm": "web1", "config": virt.config_of("web1")})
    assert hook.called("web1", "migrate", "") == 0
    assert moving._announced(call_of()) and not moving._announced(call_of())


def test_a_saved_image_is_found_among_the_open_files(tmp_path: Path) -> None:
    image = tmp_path / "web1.save"
    xml = f"<domain><name>web1</name><uuid>{UUID}</uuid></domain>\0".encode()
    header = b"libvirt-xml\n \0 \r" + (2).to_bytes(4, "little") + len(xml).to_bytes(4, "little") + bytes(40)
    image.write_bytes(header + xml + b"memory")
    os.utime(image, (1e9, 1e9))
    assert saved.saved_at(os.getpid(), UUID) is None
    with image.open("rb"):
        image.unlink()  # as libvirt does with a managed one
        assert saved.saved_at(os.getpid(), UUID) == 1e9
        assert saved.saved_at(os.getpid(), UUID.replace("9", "8")) is None
    assert saved.saved_at(os.getpid(), UUID) is None


# -- afterwards ----------------------------------------------------------------------

RUNS, HELD, SUSPENDED, PAUSED = "-b----", "--pss-", "---ss-", "--p---"


@pytest.mark.parametrize(
    ("source", "destination", "passed", "held", "action"),
    [
        ([], [RUNS], True, False, settle.CLOSE),
        ([], [], True, False, settle.CLOSE),
        (None, [RUNS], True, False, settle.CLOSE),  # the source died
        ([RUNS], [], False, False, settle.CLOSE),
        ([RUNS], None, False, False, settle.CLOSE),
        ([SUSPENDED], [], False, False, settle.GO_ON),
        ([HELD], [], False, True, settle.GO_ON),
        ([PAUSED], [], False, True, settle.GO_ON),
        ([PAUSED], [], True, True, settle.LEAVE),  # it may have run there
        ([SUSPENDED], [], True, False, settle.LEAVE),
        ([HELD], None, False, True, settle.LEAVE),  # it may run there
        ([RUNS], [PAUSED], False, False, settle.LEAVE),
        ([HELD], [PAUSED], True, True, settle.LEAVE),
        ([PAUSED], [RUNS], True, True, settle.LEAVE),
    ],
)
def test_what_becomes_of_a_window_that_is_over(
    source: "list[str] | None", destination: "list[str] | None", passed: bool, held: bool, action: str
) -> None:
    found, line = settle.decide("web1", "alice", "bob", source, destination, passed, held)
    assert found == action
    assert bool(line) == (action != settle.CLOSE)


@pytest.mark.parametrize(
    ("doing", "seconds", "window", "streams", "busy"),
    [
        (api.IDLE, 0.0, None, False, False),
        (api.UNKNOWN, 0.0, None, False, True),
        (api.BUSY, 5.0, None, False, True),
        (api.BUSY, 0.0, "2026-01-01T00:00:00Z", False, True),  # its lock is held
        (api.BUSY, 5000.0, None, False, False),  # a job that libvirt has forgotten
        (api.BUSY, 5000.0, "2026-01-01T00:00:00Z", True, True),  # a long pre-copy
        (api.BUSY, 5000.0, "2026-01-01T00:00:00Z", False, False),
        (api.IDLE, 0.0, "2026-01-01T00:00:00Z", False, False),
    ],
)
def test_when_libvirt_is_at_work(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    doing: str,
    seconds: float,
    window: "str | None",
    streams: bool,
    busy: bool,
) -> None:
    monkeypatch.setattr(api, "activity", lambda vm: (doing, seconds))
    monkeypatch.setattr(settle, "_streams", lambda: streams)
    if window is not None:
        statefile.write(
            intents.path("window", "web1"), {"kind": "window", "vm": "web1", "since": window, "by": virt.BY}
        )
    found, line = settle.at_work("web1")
    assert found == busy and bool(line) == (doing == api.UNKNOWN)


class Store:
    """The part of xenstore that domains.py reads."""

    def __init__(self, values: dict[str, str]) -> None:
        self.values = values

    def read(self, path: str) -> "str | None":
        return self.values.get(path)

    def list(self, path: str) -> list[str]:
        return sorted(
            {key[len(path) + 1 :].split("/")[0] for key in self.values if key.startswith(path + "/")}
        )


@pytest.mark.parametrize(
    ("backend", "served", "users"),
    [
        ({"params": "web1-xvda", "script": "/etc/xen/scripts/block-xenhelper"}, False, True),
        ({"params": "web1-xvda", "script": "/etc/xen/scripts/block"}, False, False),
        ({"params": "/dev/drbd1000", "script": "/etc/xen/scripts/block"}, False, True),
        ({"params": "/dev/drbd1000", "script": "/etc/xen/scripts/block"}, True, False),
        ({"params": "/dev/drbd1000", "physical-device": "93:3e8"}, True, True),
        ({"params": "/dev/some-link", "physical-device": "93:3e8"}, False, True),
        ({"params": "/dev/drbd1001", "physical-device": "93:3e9"}, False, False),
        ({"params": "/dev/vg0/x", "physical-device": "fe:3e8"}, False, False),
    ],
)
def test_who_uses_a_resource(root: Path, backend: dict[str, str], served: bool, users: bool) -> None:
    base = "backend/vbd/7/51712"
    values = {f"{base}/{key}": value for key, value in backend.items()} | {"/local/domain/7/name": "web1"}
    found = domains.users_of(Store(values), "web1-xvda", served)  # type: ignore[arg-type]
    assert found == ([(7, "web1")] if users else [])


def test_a_question_that_is_not_answered_is_given_up() -> None:
    import time

    with pytest.raises(TimeoutError):
        api.bounded(lambda: time.sleep(5), 0.05)
    assert api.bounded(lambda: 7, 5.0) == 7
    with pytest.raises(ZeroDivisionError):
        api.bounded(lambda: 1 // 0, 5.0)
