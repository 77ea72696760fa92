"""`xenhelper setup` on hosts that aren't as it would like them: what it says, and what it mends."""

from __future__ import annotations

import re

import pytest

from . import product, scenario
from .host import Host
from .lab import Lab

SETUP = "xenhelper setup bob --yes"
# what setup writes or makes, and a dry run or a refusal must not
MADE = (
    "/etc/xenhelper/xenhelper.conf /etc/xenhelper/peer_key /etc/xenhelper/known_hosts /usr/local/sbin/xl "
    "/root/.ssh/authorized_keys /etc/default/xendomains"
)


def _made(lab: Lab) -> list[str]:
    """All of it on both hosts, with the units that are enabled."""
    units = "systemctl list-unit-files --no-legend 'xenhelper*' | awk '$2 == \"enabled\"'"
    return [host.out(f"sha256sum {MADE} 2>&1; {units}") for host in lab.hosts]


def _without_ssh(alice: Host, bob: Host) -> None:
    """bob knows no key of alice's root; the line that setup prints, pasted there, changes that."""
    alice.run("mkdir /root/away && mv /root/.ssh/id_* /root/away")  # the image's, which both let in
    product.refused(alice, SETUP, "no ssh to root@bob", "root has no ssh key here: `ssh-keygen -t ed25519`")
    alice.run("ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519")
    said = product.refused(alice, SETUP, "no ssh to root@bob", "paste on bob, as root: `")
    line = re.search(r"paste on bob, as root: `([^`]*)`", said.err + said.out)
    assert line, said.err
    bob.run(line[1])


@pytest.mark.layer("booted")
def test_what_is_in_the_way_is_said_and_what_is_gone_is_made_again(lab: Lab) -> None:
    alice, bob = lab.hosts
    scenario.install(lab)
    _without_ssh(alice, bob)
    before = _made(lab)

    # a dry run tells all that it would do on both, and does none of it
    dry = alice.run(f"{SETUP} --dry-run", timeout=300).out
    print(dry)
    for words in (
        "would alice: make the peer key",
        "would bob: make the peer key",
        "would bob: link /usr/local/sbin/xl",
    ):
        assert words in dry, dry
    assert re.search(r"^  both +xenhelper \S+, Xen 4\.\S+, Linux \S+, DRBD 8\.4", dry, re.MULTILINE), dry
    assert re.search(r"^  replication +10\.99\.0\.1 - 10\.99\.0\.2 \(.*MTU 1500", dry, re.MULTILINE), dry
    assert re.search(r"^  migrates .*not PV \(alice: this Xen", dry, re.MULTILINE), dry
    for group in ("vg0", "vg1"):
        assert f"replicated   alice:{group} - bob:{group}" in dry
    assert _made(lab) == before

    # without --yes and without a terminal nobody can answer
    product.refused(alice, "xenhelper setup bob </dev/null", "both have vg0, vg1", "--volume-group", status=2)

    # somebody else's xl on the other host: both are as they were
    bob.run(
        "printf '#!/bin/sh\\nexec /usr/sbin/xl \"$@\"\\n' >/usr/local/sbin/xl; chmod 755 /usr/local/sbin/xl"
    )
    product.refused(alice, SETUP, "bob", "/usr/local/sbin/xl is there and isn't xenhelper's", "move it away")
    assert "exec /usr/sbin/xl" in bob.read("/usr/local/sbin/xl")
    bob.run("rm /usr/local/sbin/xl")
    assert _made(lab) == before

    # what isn't setup's to change is told: DRBD's own service, a config made by hand, the link's ends
    link = bob.out("ip -4 -o addr show to 10.99.0.2 | awk '{print $2}'")
    mtu = bob.read(f"/sys/class/net/{link}/mtu").strip()
    bob.run(
        f"ip link set {link} mtu 1400; systemctl unmask -q drbd.service && systemctl enable -q drbd.service"
    )
    alice.write("/etc/xen/old.cfg", "name = 'old'\ndisk = ['drbd:old,xvda,w']\n")
    said = alice.run(SETUP, timeout=300).out
    print(said)
    for words in (
        "MTU 1500 on alice and 1400 on bob",
        "bob: drbd.service is enabled",
        "alice: /etc/xen/old.cfg has disks replicated by hand",
        "reach each other",
    ):
        assert words in said, said
    bob.run(f"ip link set {link} mtu {mtu}; systemctl disable -q drbd.service")
    alice.run("rm /etc/xen/old.cfg")
    done = _made(lab)
    assert done != before and "nothing to change" in alice.run(SETUP, timeout=300).out
    assert _made(lab) == done

    # what went missing since comes back, on both hosts, from either of them
    alice.run("rm /usr/local/sbin/xl; systemctl disable -q --now xenhelper-watch.service")
    bob.run("sed -i '/peer-serve alice/d' /root/.ssh/authorized_keys; rm /etc/xenhelper/known_hosts")
    again = bob.run("xenhelper setup alice --yes", timeout=300).out
    print(again)
    for words in (
        "alice: link /usr/local/sbin/xl",
        "alice: enable and start xenhelper-watch.service",
        "bob: let alice's key ask xenhelper here",
        "bob: note alice's host keys",
    ):
        assert words in again, again
    product.wait_until(
        lambda: alice.out("systemctl is-active xenhelper-watch xenhelper-peer@bob") == "active\nactive",
        60,
        "the units",
    )
    assert sorted(_made(lab)[1].splitlines()) == sorted(done[1].splitlines())
    # a lost key is made anew, and the other host takes the new one
    alice.run("rm /etc/xenhelper/peer_key /etc/xenhelper/peer_key.pub")
    said = alice.run(SETUP, timeout=300).out
    assert "alice: make the peer key" in said and "bob: let alice's key ask xenhelper here" in said
    assert bob.read("/root/.ssh/authorized_keys").count("peer-serve alice") == 1
