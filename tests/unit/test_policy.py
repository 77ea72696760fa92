"""What is done with each disk of a config, and which peer gets its copy."""

from typing import Any

import pytest

from xenhelper import policy, volumes
from xenhelper.errors import Refused
from xenhelper.volumes import Volume

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
