"""Plans, the resource files that they give, and the scan of everybody's."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenhelper import names, paths, plan, volumes
from xenhelper.drbd import resfile, resscan
from xenhelper.errors import UsageError, XenhelperError

CAPTURED = Path(__file__).parent / "captured"


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


@settings(max_examples=200)
@given(st.text(max_size=30))
def test_no_name_gets_past_the_checks_into_a_path(name: str) -> None:
    try:
        resfile.path(name)
        volumes.tags_for(name, names.resource_name(name, "xvda"), 1, 1)
    except (UsageError, XenhelperError):
        return
    assert "/" not in name and not name.startswith((".", "-")) and name.isascii()


def test_a_file_that_stops_drbdadm_is_told_from_one_that_does_not() -> None:
    ours = (CAPTURED / "web1.res").read_text()
    assert not resscan.unclosed(ours)
    assert not resscan.unclosed('# { in a comment\nresource r { net { shared-secret "}{"; } }\n')
    for broken in (ours.rpartition("}")[0], ours + "}\n", 'resource r { net { shared-secret "x; } }\n', "}{"):
        assert resscan.unclosed(broken), broken[-60:]
