"""Free minors, ports and names of both hosts, and the lease on choosing them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_resource_files import a_plan
from xenhelper import allocate, lease, names, paths, plan
from xenhelper.errors import Refused, XenhelperError

CAPTURED = Path(__file__).parent / "captured"


def captured(name: str) -> str:
    return (CAPTURED / f"{name}.txt").read_text()


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
