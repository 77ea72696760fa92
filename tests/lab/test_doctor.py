"""doctor: a healthy pair gives none; what is made wrong on purpose is found, with its host."""

from __future__ import annotations

import json
from typing import Any

from .lab import Lab


def _findings(host: Any) -> list[dict[str, Any]]:
    answer = json.loads(host.run("xenhelper doctor --json", 240, check=False).out)
    # a guest without xenhelper-guest and the like are hints
    return [finding for finding in answer["findings"] if finding["severity"] != "hint"]


def test_a_healthy_pair_gives_no_findings_and_each_wrong_is_found(lab: Lab) -> None:
    alice, bob = lab.hosts
    assert _findings(alice) == []

    # all at once: each is found by itself (the unit tests hold that)
    bob.run("systemctl disable --now xenhelper-reconcile.timer")
    bob.run("ip link set eth0 mtu 1400")
    bob.run("rm /usr/local/sbin/xl")
    bob.run("printf '\\n# a word\\n' >> /etc/xen/web1.cfg")
    bob.run("sed -i 's/al-extents 6433/al-extents 1237/' /etc/drbd.d/web1.res")
    bob.run("lvcreate -q -y -Wy -L 4M -n lost --addtag xenhelper.resource=lost-xvda vg0")
    bob.run("rm -f /var/lib/xenhelper/resources/web1-xvdb")
    bob.run("mv /root/.ssh/id_ed25519 /root/.ssh/id_ed25519.away 2>/dev/null || true")
    bob.run(
        "sed -i 's/^XENDOMAINS_SAVE=.*/XENDOMAINS_SAVE=\\/var\\/lib\\/xen\\/save/' /etc/default/xendomains"
    )
    alice.run(
        'printf \'name = "old"\\ndisk = ["phy:/dev/vg0/web1-root,xvda,w"]\\n'
        'bootloader = "/usr/lib/xen-4.11/bin/pygrub"\\n\' > /etc/xen/old.cfg'
    )
    alice.write("/etc/drbd.d/broken.res", "resource broken {\n  device /dev/drbd7;\n  on alice {\n")
    found = _findings(alice)
    told = "\n".join(f"{one['severity']} {one['host']} {one['what']}; {one['do']}" for one in found)
    for words in (
        "error bob bob: xenhelper-reconcile.timer isn't enabled",
        "MTU differs: 1500 on alice (eth0), 1400 on bob (eth0)",
        "error bob bob: /usr/local/sbin/xl is missing",
        "/etc/xen/web1.cfg differs between both hosts",
        "/etc/drbd.d/web1.res differs between both hosts",
        "bob: /dev/vg0/lost bears xenhelper's tag of lost-xvda",
        "web1-xvdb is known on alice and not on bob",
        "xendomains saves guests",
        "alice: drbdadm refuses its configuration",
        "alice: /etc/xen/old.cfg has /dev/vg0/web1-root itself as a disk",
        "bootloader /usr/lib/xen-4.11/bin/pygrub isn't there",
    ):
        assert words in told, f"{words!r} isn't in\n{told}"
    assert all(one["do"] for one in found)

    # what setup made there is put right, and nothing else
    bob.run("xenhelper doctor --fix --dry-run", 240, check=False)
    assert not bob.run("test -e /usr/local/sbin/xl", check=False).ok
    bob.run("xenhelper doctor --fix", 240, check=False)
    assert bob.out("readlink /usr/local/sbin/xl") == "/usr/lib/xenhelper/xl"
    assert bob.out("systemctl is-enabled xenhelper-reconcile.timer") == "enabled"
    assert bob.run("test -e /dev/vg0/lost", check=False).ok


def test_a_silent_peer_is_said_and_this_host_is_looked_at(lab: Lab) -> None:
    alice, bob = lab.hosts
    bob.power_off()
    found = _findings(alice)
    assert [one["host"] for one in found if "doesn't answer" in one["what"]] == ["bob"], found
    shown = alice.run("xenhelper status", check=False).out
    assert "bob didn't answer" in shown and "web1  on alice" in shown
    assert alice.run("xenhelper status --check", check=False).status == 4
