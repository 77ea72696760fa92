"""What isn't safe or can't work: one plain line, non-zero, and both hosts as they were."""

from __future__ import annotations

import pytest

from . import product
from .guest import Guest
from .host import Host
from .lab import Lab
from .stories import Story

RESOURCES = ["web1-xvda", "web1-xvdb"]

CONFIG = """\
name = "{name}"
type = "pvh"
kernel = "/var/lib/xenlab/vmlinuz"
ramdisk = "/var/lib/xenlab/guest.img"
cmdline = "console=hvc0 quiet mitigations=off"
memory = {memory}
disk = [{disks}]
"""


def _config(host: Host, name: str, *disks: str, file: str = "", memory: int = 96) -> str:
    path = f"/etc/xen/{file or name}.cfg"
    host.write(path, CONFIG.format(name=name, disks=", ".join(f"'{d}'" for d in disks), memory=memory))
    return path


def _volume(host: Host, name: str, mib: int = 8, group: str = "vg0") -> str:
    host.run(f"lvcreate -q -y -Wy -L {mib}M -n {name} {group}")
    return f"/dev/{group}/{name}"


@pytest.mark.core
@pytest.mark.layer("paired")
def test_create_refusals_leave_both_hosts_as_they_were(lab: Lab) -> None:
    alice, bob = lab.hosts
    _volume(alice, "r1")
    disk = "phy:/dev/vg0/r1,xvda,w"

    # odd names
    for index, name in enumerate(("a b", "../x", "-x", "ü", "n" * 200)):
        path = _config(alice, name, disk, file=f"odd{index}")
        before = product.picture(lab)
        product.refused(alice, f"xl create {path}", "replicated")
        assert product.picture(lab) == before, name

    # the volume is mounted in dom0
    path = _config(alice, "r1", disk)
    alice.run("mkfs.ext2 -q /dev/vg0/r1 && mount /dev/vg0/r1 /mnt")
    before = product.picture(lab)
    product.refused(alice, f"xl create {path}", "/dev/vg0/r1", "/mnt")
    assert product.picture(lab) == before
    alice.run("umount /mnt")

    # no such volume
    path = _config(alice, "r2", "phy:/dev/vg0/none,xvda,w")
    before = product.picture(lab)
    product.refused(alice, f"xl create {path}", "/dev/vg0/none")
    assert product.picture(lab) == before

    # the other host has a volume of that name that isn't ours
    _volume(bob, "r1", 12)
    path = _config(alice, "r1", disk)
    before = product.picture(lab)
    product.refused(alice, f"xl create {path}", "bob", "vg0/r1")
    assert product.picture(lab) == before
    bob.run("lvremove -qy vg0/r1")

    # its volume group is full
    bob.run("lvcreate -q -y -l 100%FREE -Wn -n filler vg0")
    before = product.picture(lab)
    product.refused(alice, f"xl create {path}", "bob", "vg0")
    assert product.picture(lab) == before
    bob.run("lvremove -qy vg0/filler")

    # its volume group is missing
    bob.run("vgrename -q vg0 elsewhere")
    before = product.picture(lab)
    product.refused(alice, f"xl create {path}", "bob", "vg0")
    assert product.picture(lab) == before
    bob.run("vgrename -q elsewhere vg0")

    # nobody answers there
    lab.cut_link()
    lab.cut_second_path()
    before = product.picture(lab)
    product.refused(alice, f"xl create {path}", "bob", timeout=180)
    assert product.picture(lab) == before
    lab.heal()


@pytest.mark.core
@pytest.mark.layer("paired")
def test_foreign_resource_files(lab: Lab) -> None:
    alice, bob = lab.hosts
    # one that holds the next minor and port, on the other host only; one that doesn't parse
    bob.write(
        "/etc/drbd.d/foreign.res",
        "resource foreign {\n device /dev/drbd1000; disk /dev/none; meta-disk internal;\n"
        " on alice { address 10.99.0.1:7800; }\n on bob { address 10.99.0.2:7800; }\n}\n",
    )
    alice.write(
        "/etc/drbd.d/broken.res", "resource broken {\n device minor 1001\n on {{{ address 10.99.0.1:7801\n"
    )
    _volume(alice, "r1")
    path = _config(alice, "r1", "phy:/dev/vg0/r1,xvda,w")
    alice.run(f"xl create {path}", timeout=300)
    assert product.minor(alice, "r1-xvda") not in (1000, 1001)
    assert "7800" not in alice.read("/etc/drbd.d/r1.res").replace("10.99.0", "")
    Guest(alice, "r1").wait_line("XH xvda", 120)
    alice.run("xl destroy r1")


@pytest.mark.core
@pytest.mark.layer("paired")
def test_every_syntax_and_what_is_left_alone(lab: Lab) -> None:
    alice, bob = lab.hosts
    for name in ("s1", "s2", "s3", "other", "shared"):
        _volume(alice, name, 4)
    _volume(alice, "alone", 4, "vg1")
    alice.run("truncate -s 4M /root/file.img")
    conf = "/etc/xenhelper/xenhelper.conf"
    alice.run(f"sed -i '/^.replicate.$/a exclude_volumes = vg0/other,' {conf}")
    for host in lab.hosts:  # `setup --yes` took vg1, too
        host.run(f"sed -i 's/^volume_groups *=.*/volume_groups = vg0,/' {conf}")
    assert "vg0/other" in alice.read(conf) and "vg0,\n" in alice.read(conf)
    alice.write(
        "/etc/xen/syntax.cfg",
        """# a comment
name = 'syntax'
type = "pvh"
kernel = "/var/lib/xenlab/vmlinuz"
ramdisk = "/var/lib/xenlab/guest.img"
cmdline = "console=hvc0 quiet mitigations=off"
memory = 96
disk = [ 'phy:/dev/vg0/none,xvdz,w' ]   # a later assignment wins
disk = [
  '/dev/vg0/s1,raw,xvda,rw',            # positional
  'vdev=xvdb, access=rw, format=raw, target=/dev/mapper/vg0-s2',
  "phy:/dev/vg0/s3,xvdc,r",
  '/dev/vg1/alone,,xvdd,rw',
  'phy:/dev/vg0/other,xvde,w',
  '/root/file.img,raw,xvdf,rw' ]""",  # no newline at its end
    )
    alice.run("xl -v cr --quiet --defconfig /etc/xen/syntax.cfg", timeout=300)
    try:
        text = alice.read("/etc/xen/syntax.cfg")
        assert text == bob.read("/etc/xen/syntax.cfg")
        for vdev, target in (("xvda", "syntax-xvda"), ("xvdb", "syntax-xvdb"), ("xvdc", "syntax-xvdc")):
            assert f"target={target}" in text, vdev
        for path in ("/dev/vg1/alone", "/dev/vg0/other", "/root/file.img"):
            assert f"target={path}" in text.split("script=block-xenhelper", 1)[1]
        assert sorted(alice.out("ls /var/lib/xenhelper/resources").split()) == [
            "syntax-xvda",
            "syntax-xvdb",
            "syntax-xvdc",
        ]
    finally:
        alice.run("xl destroy syntax", check=False)
    # overrides on the command line are passed on, not stored
    alice.run("xl create /etc/xen/syntax.cfg memory=110", timeout=120)
    assert alice.read("/etc/xen/syntax.cfg") == text
    assert abs(int(alice.out("xl list syntax | awk 'NR==2{print $3}'")) - 110) <= 1
    alice.run("xl destroy syntax")


@pytest.mark.core
def test_migrate_refusals_change_nothing(lab: Lab) -> None:
    alice, bob = lab.hosts
    guest = Guest(alice, "web1")

    def refuse(*words: str, host: str = "bob") -> None:
        product.refused(alice, f"xl migrate web1 {host}", *words)
        assert product.net(alice, "web1-xvda") == product.Net("A", False)

    refuse("carol", "bob", host="carol")
    bob.run("ip link set xenbr0 name xenbr9")
    refuse("bob", "xenbr0")
    bob.run("ip link set xenbr9 name xenbr0")
    bob.run("mv /var/lib/xenlab/vmlinuz /var/lib/xenlab/elsewhere")
    refuse("bob", "/var/lib/xenlab/vmlinuz")
    bob.run("mv /var/lib/xenlab/elsewhere /var/lib/xenlab/vmlinuz")
    # a writable disk that is neither replicated nor shared
    _volume(alice, "extra", 4, "vg1")
    alice.run("xl block-attach web1 phy:/dev/vg1/extra xvdx w")
    refuse("xvdx", "/dev/vg1/extra")
    product.detach(alice, "web1", "xvdx")
    # not connected
    lab.cut_link()
    guest.wait_progress(120)
    product.wait_until(
        lambda: (
            "Connected" not in alice.run("drbdsetup events2 --now web1-xvda").out.split("connection:")[1][:9]
        ),
        60,
        "alice to notice the cut",
    )
    refuse("web1-xvda")
    lab.heal()
    product.wait_in_sync(alice, *RESOURCES)
    guest.wait_progress()
    product.assert_no_wrong_block(guest, alice)
    product.assert_steady(lab, RESOURCES, alice)


@pytest.mark.layer("paired")
def test_twenty_creates_at_once_from_both_hosts(lab: Lab) -> None:
    for host in lab.hosts:
        for number in range(10):
            _volume(host, f"{host.name}{number}", 4)
            _config(host, f"{host.name}{number}", f"phy:/dev/vg0/{host.name}{number},xvda,w")
    started = [
        host.start(
            "for n in 0 1 2 3 4 5 6 7 8 9; do "
            f"xenhelper replicate /etc/xen/{host.name}$n.cfg >/root/r$n 2>&1 || cat /root/r$n & done; wait"
        )
        for host in lab.hosts
    ]
    for process in started:
        out, _ = process.communicate(timeout=900)
        assert out == b"", out.decode()
    for host in lab.hosts:
        records = [
            dict(
                line.split("=", 1) for line in host.read(f"/var/lib/xenhelper/resources/{name}").splitlines()
            )
            for name in host.out("ls /var/lib/xenhelper/resources").split()
        ]
        assert len(records) == 20
        for key in ("minor", "port", "resource"):
            assert len({record[key] for record in records}) == 20, key
        assert host.read("/proc/drbd").count("cs:") == 20


@pytest.mark.layer("paired")
def test_pv_guest_is_refused_before_it_starts_to_move(lab: Lab) -> None:
    alice = lab.alice
    _volume(alice, "pv1", 64)
    path = _config(alice, "pv1", "phy:/dev/vg0/pv1,xvda,w", memory=128)
    alice.run(f"sed -i 's/pvh/pv/' {path}")
    alice.run(f"xl create {path}", timeout=300)
    product.wait_in_sync(alice, "pv1-xvda")
    product.refused(alice, "xl migrate pv1 bob", "PV", "shadow")
    story = Story("pv")
    story.type(alice, "xl migrate pv1 bob", check=False)
    story.end()
    assert product.runs_on(lab, "pv1") == ["alice"]
    alice.run("xl destroy pv1")


def test_create_on_bob_during_a_migration(lab: Lab) -> None:
    for balloon in ("off", "on"):
        for host in lab.hosts:
            line = f'autoballoon="{balloon}"'
            host.run(f"sed -i '/^ *autoballoon/d' /etc/xen/xl.conf; echo '{line}' >> /etc/xen/xl.conf")
        there = product.runs_on(lab, "web1")[0]
        source, target = (lab.alice, lab.bob) if there == "alice" else (lab.bob, lab.alice)
        process = source.start(f"xl migrate web1 {target.name}")
        product.wait_until(
            lambda target=target: "web1--incoming" in target.run("xl list").out, 120, "the migration to begin"
        )
        product.refused(target, "xl create /etc/xen/web1.cfg", "web1", timeout=300)
        process.communicate(timeout=product.MIGRATE_TIMEOUT)
        assert process.returncode == 0
        assert product.runs_on(lab, "web1") == [target.name]
        Guest(target, "web1").wait_progress(120)
        product.assert_steady(lab, RESOURCES, target)
    product.assert_no_wrong_block(Guest(lab.alice, "web1"), *lab.hosts)


def test_beneath_is_refused_or_found(lab: Lab) -> None:
    """An old config that points at a volume under DRBD."""
    alice = lab.alice
    path = _config(alice, "old", "phy:/dev/vg0/web1-root,xvda,w")
    product.refused(alice, f"xl create {path}", "/dev/vg0/web1-root", "web1")
    # past the shim: found and logged within 10 s
    alice.run("xl destroy web1")
    alice.run(f"{product.real_xl(alice)} create {path}", timeout=120)
    product.wait_until(
        lambda: "beneath" in alice.run("journalctl -q -t xenhelper --no-pager -n 20 -o json").out,
        30,
        "the journal to name it",
    )
    line = alice.run("journalctl -q -t xenhelper --no-pager -n 20").out
    assert "old" in line and "web1-root" in line
    alice.run("xl destroy old")
