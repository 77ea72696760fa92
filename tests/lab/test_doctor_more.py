"""doctor: the kinds of finding that test_doctor.py leaves, made on real hosts, found in one run.

Other versions of DRBD and Xen, and a host without Xen, are files laid over those of sysfs that
tell them; another kernel is what setarch(8) shows; a Xen that was booted without dom0_mem= is
what xl is made to print. What is made here is undone with the lab's snapshot.
"""

from __future__ import annotations

import json
import re

import pytest

from . import product
from .host import Host
from .lab import Lab
from .test_tune import md_array

PV1 = """\
name = "pv1"
type = "pv"
kernel = "/var/lib/xenlab/vmlinuz"
ramdisk = "/var/lib/xenlab/guest.img"
cmdline = "console=hvc0 quiet mitigations=off xh.rate=5"
memory = 128
disk = ['phy:/dev/vg0/pv1,xvda,w']
"""
# ETHTOOL_SSET (linux/ethtool.h): a virtio device keeps what speed it is told
SPEED = """\
import array, fcntl, socket, struct, sys
command = array.array("B", struct.pack(
    "IIIHBBBBBBIIHBBI8x", 2, 0, 0, int(sys.argv[1]), 1, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
request = struct.pack("16sP16x", b"eth0", command.buffer_info()[0])
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8946, request)
"""
KEYMAPS = "/usr/share/qemu/keymaps /usr/share/qemu-xen/qemu/keymaps /usr/share/xen/qemu/keymaps"
ARRAY = "modprobe -a loop raid1; mkdir -p /root/md; for n in 0 1; do truncate -s 128M /root/md/$n; " \
    "losetup /dev/loop$n /root/md/$n; done; " + md_array("md100", "raid1", [0, 1], 0, 0, 2)  # fmt: skip


def _doctor(host: Host, through: str = "") -> str:
    """What it finds, a line each: ``SEVERITY HOST WHAT; DO``. ``through``: a command to run it by."""
    answer = json.loads(host.run(f"{through} xenhelper doctor --json", 400, check=False).out)
    assert all(one["do"] for one in answer["findings"])
    lines = [f"{one['severity']} {one['host']} {one['what']}; {one['do']}" for one in answer["findings"]]
    print("\n".join(lines))
    return "\n".join(lines)


def _missing(said: str, wanted: tuple[str, ...]) -> list[str]:
    return [words for words in wanted if not re.search(words, said)]


def _stop_what_mends(lab: Lab) -> None:
    for host in lab.hosts:
        host.run("systemctl stop xenhelper-reconcile.timer xenhelper-reconcile xenhelper-watch", timeout=180)


def test_every_other_kind_is_found_in_one_run(lab: Lab) -> None:
    alice, bob = lab.hosts
    alice.run("lvcreate -q -y -Wy -L 64M -n pv1 vg0")
    alice.write("/etc/xen/pv1.cfg", PV1)
    alice.run("xl create /etc/xen/pv1.cfg", timeout=300)
    product.wait_in_sync(alice, "pv1-xvda", "web1-xvda", "web1-xvdb")
    product.wait_until(
        lambda: alice.run("ls /var/lib/xenhelper/intents", check=False).out == "", 120, "no intent", every=2
    )
    xl = product.real_xl(alice)
    _stop_what_mends(lab)
    for host in lab.hosts:
        host.write("/root/speed.py", SPEED)
        host.run(ARRAY)

    # alice: guests, configs, tuning
    alice.run(f"{xl} block-attach web1 phy:/dev/vg0/web1-swap,xvdd,r", timeout=60)
    alice.run("sed -i '1i viridian = 1' /etc/xen/pv1.cfg")
    alice.write("/etc/xen/hvm1.cfg", 'name = "hvm1"\ntype = "hvm"\nkeymap = "de"\ndisk = []\n')
    alice.run(f'for f in {KEYMAPS}; do [ ! -d "$f" ] || mv "$f" "$f.away"; done')
    alice.run("mkdir -p /usr/share/xen-tools/debian.d")
    alice.write(
        "/usr/share/xen-tools/debian.d/20-setup-apt",
        "deb http://security.debian.org/ ${dist}/updates main\n",
    )
    # masked in the image
    alice.run("systemctl disable -q xenhelper-tune; systemctl unmask -q drbd; systemctl enable -q drbd")
    alice.run("echo '4096 87380 6291456' > /proc/sys/net/ipv4/tcp_rmem")
    alice.run(f"xenstore-rm /local/domain/0/backend/vbd/$({xl} domid web1)/51712/read-ahead-kb")
    alice.run("python3 -IS /root/speed.py 1000")
    alice.run("rm /usr/local/sbin/xl; printf '#!/bin/sh\\nexit 1\\n' > /usr/local/sbin/xl")

    # bob: what both should have alike, what belongs to nothing, what doesn't fit
    bob.run("python3 -IS /root/speed.py 100")
    bob.run("rm /etc/drbd.d/pv1.res /etc/xen/pv1.cfg /var/lib/xenhelper/resources/web1-xvdb")
    bob.run("sed -i 's/^port=.*/port=7999/' /var/lib/xenhelper/resources/pv1-xvda")
    bob.run("drbdsetup down pv1-xvda; lvchange -q --deltag xenhelper.resource=pv1-xvda vg0/pv1_xhmeta")
    bob.run("lvcreate -q -y -Wy -L 4M -n lost --addtag xenhelper.resource=lost-xvda vg0")
    bob.run("drbdsetup new-resource lost-xvda && drbdsetup new-minor lost-xvda 1999 0")
    bob.run("printf 'Host alice\\n  Port 1\\n' > /root/.ssh/config; chmod 600 /root/.ssh/config")
    bob.run("mkdir -p /etc/mdadm; echo MAILADDR root > /etc/mdadm/mdadm.conf")
    bob.run("sed 's/ bob bob.lab/ bob/' /etc/hosts > /root/hosts; cat /root/hosts > /etc/hosts")
    bob.run("echo 8.4.99 > /root/drbd; mount --bind /root/drbd /sys/module/drbd/version")
    bob.run("echo 99 > /root/minor; mount --bind /root/minor /sys/hypervisor/version/minor")
    bob.run(
        "sed -i 's/^__version__ = .*/__version__ = \"0.0.9\"/' "
        "/usr/lib/python3/dist-packages/xenhelper/__init__.py"
    )
    bob.run("lvcreate -q -y -Wn -Zn -l 100%FREE -n filler vg0")
    bob.run("fallocate -l $(( ($(stat -f -c '%a * %S' /var/lib)) - (48 << 20) )) /var/lib/filler", 120)
    bob.run("date -s @$(( $(date +%s) + 120 ))")
    # bob's end of the channel makes way for one of the "new" code: not while clocks are compared
    for _ in range(2):
        alice.run("xenhelper status", 180, check=False)

    said = _doctor(alice)
    missing = _missing(
        said,
        (
            # services
            r"error alice alice: xenhelper-watch.service is inactive",
            r"error alice alice: xenhelper-reconcile.timer is inactive",
            r"error alice alice: xenhelper-tune.service isn't enabled \(disabled\)",
            r"error alice alice: /usr/local/sbin/xl is foreign.*move it away",
            r"error bob bob: root's ssh to alice, which `xl migrate` needs, fails: .*refused",
            r"warning bob bob: couldn't be looked at: \w+: no /usr/lib/xen-4\.99/bin/xl",
            # versions
            r"xenhelper differs: \S+ on alice, 0\.0\.9 on bob",
            r"DRBD differs: 8\.4\.\d+ on alice, 8\.4\.99 on bob",
            r"Xen differs: 4\.\d+ on alice, 4\.99 on bob",
            r"bob's clock is 1[12]\d s ahead of alice's",
            # the link
            r"hint bob bob: the replication link eth0 runs at 100 Mbit/s",
            r"the replication link's speed differs: 1000 Mbit/s on alice \(eth0\), 100 Mbit/s on bob",
            # what both must have alike
            r"error None /etc/drbd\.d/pv1\.res is missing on bob",
            r"warning None /etc/xen/pv1\.cfg is missing on bob",
            r"error None pv1-xvda: both hosts' records differ in port",
            # what belongs to nothing, or lacks something
            r"warning bob bob: /dev/vg0/web1-swap bears xenhelper's tag of web1-xvdb",
            r"warning bob bob: /etc/drbd\.d/web1\.res has web1-xvdb, of which there is no record",
            r"error bob bob: resource pv1-xvda isn't up",
            r"error bob bob: pv1-xvda has no resource file",
            r"warning bob bob: /dev/vg0/pv1_xhmeta of pv1-xvda isn't there, or lacks xenhelper's tags",
            r"warning bob bob: the kernel has lost-xvda \(minor 1999\), of which there is no record",
            # guests and configs
            r"error alice alice: domain web1 \(id \d+\) runs on /dev/vg0/web1-swap, beneath DRBD",
            r"hint alice alice: pv1 is a PV guest and can't be migrated",
            r"hint alice alice: /usr/share/xen-tools/debian\.d/20-setup-apt gives new images",
            r"hint alice alice: /etc/xen/hvm1\.cfg names a keymap, and QEMU has none here",
            r"hint alice alice: /etc/xen/pv1\.cfg looks like Windows",
            # room
            r"error bob bob: /var/lib has \d+ MiB of .* free",
            r"hint bob bob: volume group vg0 is full",
            # mail of arrays
            r"warning alice alice: nothing watches the RAID arrays \(md100\)",
            r"warning alice alice: mdadm\.conf has no MAILADDR",
            r"warning bob bob: no /usr/sbin/sendmail, so mdadm's mail to root goes nowhere",
            r"hint bob bob: its name doesn't resolve to one with a domain",
            # tuning
            r"warning alice xenhelper-tune\.service is disabled: nothing is tuned at boot",
            r"warning alice net\.ipv4\.tcp_rmem is 4096 87380 6291456 instead of",
            r"warning alice drbd\.service is enabled",
            r"hint alice web1: no read-ahead is published for its disks",
            r"hint alice pv1 doesn't say that it uses the read-ahead",
        ),
    )
    assert missing == []


def test_what_the_boot_and_the_kernel_decide(lab: Lab) -> None:
    alice, bob = lab.hosts
    _stop_what_mends(lab)
    for host in lab.hosts:
        config = re.sub(
            r"\n\[tuning\].*?(?=\n\[|\Z)", "", host.read("/etc/xenhelper/xenhelper.conf"), flags=re.S
        )
        host.write(
            "/etc/xenhelper/xenhelper.conf", f"{config}\n[tuning]\ndom0_memory = 740\npci_passthrough = yes\n"
        )
        # as if Xen had been booted without it
        xl = product.real_xl(host)
        host.run(
            f'cp {xl} /root/xl.real; printf \'#!/bin/sh\\n[ "$1" = info ] || exec /root/xl.real "$@"\\n'
            f'/root/xl.real "$@" | sed s/dom0_mem=[^[:space:]]*//\\n\' > /root/xl; chmod 755 /root/xl; '
            f"mount --bind /root/xl {xl}"
        )
    # bob has put it where GRUB will find it, and hasn't booted since
    bob.run("mkdir -p /etc/default/grub.d; xenhelper tune --write", 180, check=False)
    minor = product.minor(alice, "web1-xvda")
    alice.run(f"echo 128 > /sys/block/drbd{minor}/queue/read_ahead_kb")
    alice.run(": > /etc/xen/xl.conf")
    said = _doctor(alice, "setarch --uname-2.6")
    missing = _missing(
        said,
        (
            r"hint None the kernel differs: 2\.6\.\S+ on alice, \d+\.\d+\.\S+ on bob",
            r"warning alice .*read-ahead is 128 KiB instead of \d+ KiB",
            r"warning alice xl takes memory from dom0 for each guest \(autoballoon\)",
            r"warning alice .*the IOMMU is off",
            r"hint bob /etc/default/grub\.d/xenhelper\.cfg is written but not in force; `update-grub`",
        ),
    )
    assert missing == []
    # a host whose xenhelper tells other things than this one asks for
    bob.run(
        'sed -i \'s/^    found\\["unread"\\] = unread$/    found["unread"] = "none"/\' '
        "/usr/lib/python3/dist-packages/xenhelper/doctor/facts.py && grep -q '= \"none\"' "
        "/usr/lib/python3/dist-packages/xenhelper/doctor/facts.py; systemctl restart 'xenhelper-peer@*'"
    )
    alice.run("systemctl restart 'xenhelper-peer@*'", 60)
    assert "facts: unread has the wrong type" in _doctor(alice)


@pytest.mark.layer("paired")
def test_a_host_that_cant_replicate_at_all(lab: Lab) -> None:
    """Faults that keep the others from being looked at."""
    alice, bob = lab.hosts
    _stop_what_mends(lab)
    # drbdsetup would load it again
    bob.run("echo 'install drbd /bin/false' > /etc/modprobe.d/lab.conf; modprobe -r drbd")
    bob.run("ip address del $(ip -br -4 address show eth0 | awk '{print $3}') dev eth0")
    bob.run('f=$(command -v vgs) && mv "$f" "$f.away"')
    alice.run("echo 9.2.1 > /root/drbd; mount --bind /root/drbd /sys/module/drbd/version")
    alice.run(": > /root/none; mount --bind /root/none /sys/hypervisor/version/major")
    said = _doctor(alice)
    missing = _missing(
        said,
        (
            r"error bob bob: the drbd module isn't loaded",
            r"error bob bob: no device has its replication address 10\.99\.0\.2",
            r"warning bob bob: couldn't be looked at: groups: ",
            r"warning alice alice: DRBD 9\.2\.1 isn't tested",
            r"error alice alice runs without Xen",
        ),
    )
    assert missing == []
    # a host that was set up and has lost its peer's section
    config = alice.read("/etc/xenhelper/xenhelper.conf")
    alone = re.sub(r"^\[peers\].*?(?=^\[\w|\Z)", "[peers]\n\n", config, flags=re.M | re.S)
    assert "[[bob]]" in config and "[[bob]]" not in alone
    alice.write("/etc/xenhelper/xenhelper.conf", alone)
    assert "error alice alice has no peer" in _doctor(alice)
