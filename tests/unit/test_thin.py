"""Thin volumes: their copies are thin, there is room for them, and zero blocks stay unallocated."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.fakes.hosts import GIB, World
from tests.unit.test_knobs import entry
from xenhelper import alerts, growth, paths, plan, pools, recover, room, volumes
from xenhelper.doctor import thin as doctor_thin
from xenhelper.doctor.facts import Facts
from xenhelper.doctor.finding import ERROR, WARNING
from xenhelper.doctor.pair import Pair
from xenhelper.drbd import knobs, resfile
from xenhelper.errors import Refused, XenhelperError
from xenhelper.volumes import Group, Volume

MIB = 1 << 20
EXTENT = 4 * MIB
CHUNK = 65536


def row(**more: str) -> dict[str, str]:
    return {
        "lv_name": "web1", "lv_size": str(64 * MIB), "lv_tags": "", "lv_attr": "-wi-a-----",
        "lv_kernel_major": "254", "lv_kernel_minor": "3", "pool_lv": "", "data_percent": "",
        "metadata_percent": "", "chunk_size": "0", "vg_name": "vg0", "vg_size": str(GIB), "vg_free": "0",
        "vg_extent_size": str(EXTENT), **more,
    }  # fmt: skip


def parsed(*rows: dict[str, str]) -> list[Volume]:
    return volumes.parse_volumes(json.dumps({"report": [{"lv": list(rows)}]}))


def test_what_lvs_says_of_thin_ones_is_read() -> None:
    thin = row(lv_attr="Vwi-aotz--", pool_lv="tp", data_percent="12.50")
    pool = row(
        lv_name="tp",
        lv_attr="twi-aotz--",
        data_percent="80.01",
        metadata_percent="3.10",
        chunk_size=str(CHUNK),
    )
    one, two = parsed(thin, pool)
    assert (one.pool, one.kind, one.zeroes) == ("tp", volumes.THIN, True)
    assert 8 * MIB <= one.used <= 8 * MIB + 64 * MIB // 10000 + 1, "rounded up by what lvs rounds"
    assert (two.filled, two.meta_filled, two.chunk) == (8001, 310, CHUNK)
    assert not parsed(row(lv_attr="twi-aot---"))[0].zeroes
    # nobody knows: it may be all
    assert parsed(row(lv_attr="Vwi---tz--", pool_lv="tp"))[0].used == 64 * MIB
    assert parsed(row())[0].used == 64 * MIB
    # chunk_size makes a row of each segment
    assert len(parsed(row(), row(), row(lv_name="other"))) == 2


def side(host: str = "bob", free: int = GIB, **mine: room.Pool) -> room.Side:
    return room.Side(host, {"vg0": Group("vg0", 4 * GIB, free, EXTENT)}, {"vg0": mine} if mine else {})


POOL = room.Pool(GIB, GIB, CHUNK, True)
VOLUME = Volume("vg0", "web1", 64 * MIB, kind="V", pool="tp", filled=1000, zeroes=True)
HERE = side("alice", tp=POOL)


def put(there: room.Side, volume: Volume = VOLUME, here: room.Side = HERE) -> room.Place:
    return room.place(here, there, [room.Disk(volume, "vg0")])[0]


def test_the_pool_of_the_same_name_else_the_only_one_that_zeroes() -> None:
    assert room.choose("tp", "vg0", side(tp=POOL, other=POOL)) == ("tp", "")
    assert room.choose("tp", "vg0", side(other=POOL)) == ("other", "")
    assert room.choose("tp", "vg0", side(one=POOL, two=POOL))[1].startswith("vg0 on bob has 2 thin pools")
    assert room.choose("tp", "vg0", side())[1] == "vg0 on bob has no thin pool"
    dirty = replace(POOL, zeroes=False)
    assert room.choose("tp", "vg0", side(tp=dirty))[1].startswith("pool vg0/tp on bob doesn't zero")
    assert room.choose("tp", "vg0", side(tp=dirty, other=POOL)) == ("other", "")


def test_a_resync_leaves_out_zeros_only_where_both_ends_are_thin() -> None:
    assert room.granularity(POOL, replace(POOL, chunk=4 * CHUNK)) == CHUNK
    assert room.granularity(POOL, None) == 0, "an ordinary volume may read anything after a discard"
    assert room.granularity(POOL, replace(POOL, zeroes=False)) == 0
    assert room.granularity(POOL, replace(POOL, chunk=2 * MIB)) == 0


def test_a_thin_copy_needs_what_the_source_has_and_of_the_pool() -> None:
    placed = put(side(free=EXTENT, tp=replace(POOL, free=8 * MIB)))
    assert (placed.peer_pool, placed.peer_meta_pool, placed.granularity) == ("tp", "", CHUNK)
    assert placed.why == ""
    with pytest.raises(
        Refused, match=r"thin pool vg0/tp on bob has 6 MiB free, but 6 MiB are needed"
    ) as info:
        put(side(tp=replace(POOL, free=6 * MIB)))
    assert "lvextend --size +1M vg0/tp" in info.value.do
    # chunks that a resync can't leave out are filled
    large = side(tp=replace(POOL, chunk=2 * MIB))
    assert "larger than 1 MiB" in put(large).why and put(large).granularity == 0
    with pytest.raises(Refused, match="but 64 MiB are needed"):
        put(side(tp=replace(POOL, chunk=2 * MIB, free=32 * MIB)))


def test_metadata_is_an_ordinary_volume_where_there_are_extents() -> None:
    full = side(free=0, tp=POOL)
    assert put(full).peer_meta_pool == "tp" and put(full).meta_pool == ""
    assert put(side(tp=POOL), here=side("alice", 0, tp=POOL)).meta_pool == "tp"
    # an ordinary volume's has nowhere else to go, and comes first
    thick = Volume("vg0", "swap", EXTENT)
    disks = [room.Disk(VOLUME, "vg0"), room.Disk(thick, "vg0")]
    places = room.place(HERE, side(free=2 * EXTENT, tp=POOL), disks)
    assert [one.peer_meta_pool for one in places] == ["tp", ""]
    # what isn't zeroed takes none
    with pytest.raises(Refused, match="volume group vg0 on alice has 0 MiB free"):
        put(side(tp=POOL), here=side("alice", 0, tp=replace(POOL, zeroes=False)))


def test_without_a_pool_it_is_an_ordinary_volume_and_that_is_said() -> None:
    placed = put(side())
    assert placed == room.Place(why="vg0 on bob has no thin pool")
    word = room.word(VOLUME, "vg0", placed, "bob")
    assert word == "its copy on bob is an ordinary volume, not thin: vg0 on bob has no thin pool"
    assert room.word(Volume("vg0", "web1", MIB), "vg0", placed, "bob") == ""
    with pytest.raises(Refused, match="takes its whole size, and vg0 on bob has no thin pool") as info:
        put(side(free=32 * MIB))
    assert "lvcreate --type thin-pool" in info.value.do


def test_what_the_other_host_tells_of_its_pools_is_checked() -> None:
    known = [replace(VOLUME, name="tp", kind="t", pool="", chunk=CHUNK, filled=5000, size=GIB)]
    told = json.loads(json.dumps(room.told(known, ["vg0", "vg1"])))
    found = room.from_json(told)["vg0"]["tp"]
    assert found.chunk == CHUNK and GIB // 2 - GIB // 5000 < found.free <= GIB // 2 and found.zeroes
    assert room.told(known, ["vg1"]) == {}
    assert room.from_json(None) == {}, "an older host tells nothing"
    good = vars(POOL)
    for bad in (
        7, {"vg0": 1}, {"vg 0": {"tp": good}}, {"vg0": {"../tp": good}}, {"vg0": {"tp": {}}},
        {"vg0": {"tp": {**good, "free": -1}}}, {"vg0": {"tp": {**good, "size": "1"}}},
        {"vg0": {"tp": {**good, "chunk": True}}},
    ):  # fmt: skip
        with pytest.raises(XenhelperError, match="thin pools can't be read"):
            room.from_json(bad)


def test_a_resource_file_has_it_for_thin_disks_only() -> None:
    thin = replace(knobs.Knobs(), rs_discard_granularity=CHUNK)
    plain, both = (
        resfile.render("web1", [entry("web1-xvda", knobs.Knobs())]),
        resfile.render("web1", [entry("web1-xvda", knobs.Knobs()), entry("web1-xvdb", thin)]),
    )
    assert "discard" not in plain.replace("discard-zero-changes", "")
    assert both.count("        rs-discard-granularity 65536;\n") == 1
    assert resfile.knobs(both) == {"web1-xvda": knobs.Knobs(), "web1-xvdb": thin}
    # tuning gives it the link's settings, and leaves it this one
    tuned = resfile.with_knobs(both, knobs.for_link(1000, 1024))
    assert resfile.knobs(tuned)["web1-xvdb"] == replace(
        knobs.for_link(1000, 1024), rs_discard_granularity=CHUNK
    )
    assert thin.of_link == knobs.Knobs()
    assert knobs.checked(thin.to_json()) == thin and "rs_discard_granularity" not in knobs.Knobs().to_json()
    with pytest.raises(ValueError, match="rs_discard"):
        knobs.checked({"rs_discard_granularity": 2 << 20})


def test_a_plan_with_pools_travels_and_one_without_is_as_before() -> None:
    disk = plan.Disk(
        "xvda", "web1-xvda", 1000, 7800, 64 * MIB, "vg0", "vg1", "web1", "ab" * 16, EXTENT, EXTENT
    )
    whole = plan.Plan(
        "1a", "web1", "alice", "10.99.0.1", "bob", "10.99.0.2", "A",
        (replace(disk, pool="tp", peer_pool="tq", peer_meta_pool="tr"),),
    )  # fmt: skip
    again = plan.from_json(json.loads(json.dumps(whole.to_json()))).seen_from("bob").disks[0]
    assert (again.pool, again.meta_pool, again.peer_pool) == ("tq", "tr", "tp")
    told = replace(whole, disks=(disk,)).to_json()["resources"][0]
    assert not [key for key in told if "pool" in key] and "rs_discard_granularity" not in told["knobs"]
    with pytest.raises(XenhelperError, match="out of range"):
        plan.from_json(replace(whole, disks=(replace(disk, peer_pool="-x"),)).to_json())


SIDE = growth.Side("bob", "/dev/vg0/a", 2 * GIB, "/dev/vg0/a_xhmeta", EXTENT, EXTENT, 0, EXTENT, "V", "tp")


def test_growth_looks_at_the_pool() -> None:
    sparse = replace(SIDE, pool_free=MIB, sparse=True)
    growth.check("r", 2 * GIB, 64 * GIB, (sparse, sparse))
    with pytest.raises(Refused, match="thin pool tp of /dev/vg0/a on bob has 0 MiB free") as info:
        growth.check("r", 2 * GIB, 3 * GIB, (sparse, replace(sparse, pool_free=0)))
    assert "lvextend --size +1024M vg0/tp" in info.value.do
    # a resync fills what it can't leave out
    with pytest.raises(Refused, match="has 1 MiB free, but 1024 MiB are needed"):
        growth.check("r", 2 * GIB, 3 * GIB, (sparse, replace(SIDE, pool_free=MIB)))
    assert growth.side_from_json(sparse.to_json()) == sparse
    assert "pool" not in replace(SIDE, pool="", kind="-").to_json(), "as an older peer knows it"
    for bad in ("../x", 7):
        with pytest.raises(XenhelperError):
            growth.side_from_json({**sparse.to_json(), "pool": bad})


def pool_facts(data: int, metadata: int = 0, zeroes: bool = True) -> dict[str, Any]:
    return {"data": data, "metadata": metadata, "size": GIB, "zeroes": zeroes}


def test_doctor_tells_of_a_pool_that_fills_up() -> None:
    def found(facts: dict[str, Any]) -> list[tuple[str, str, str]]:
        pair = Pair(Facts(host="alice", pools={"vg0/tp": facts}), None, "bob")
        return [(one.severity, one.what, one.do) for one in doctor_thin.check(pair)]

    assert found(pool_facts(7999, 7999)) == []
    ((severity, what, do),) = found(pool_facts(8000))
    assert severity == WARNING and "data 80.0 %" in what and "lvextend --size +256M vg0/tp" in do
    ((severity, what, do),) = found(pool_facts(9500, 1000))
    assert severity == ERROR and "poolmetadatasize" not in do
    ((severity, _, do),) = found(pool_facts(0, 9700))
    assert severity == ERROR and "lvextend --poolmetadatasize +64M vg0/tp" in do and "--size" not in do
    ((severity, what, do),) = found(pool_facts(0, 0, False))
    assert severity == WARNING and do == "`lvchange --zero y vg0/tp`"


def test_the_reconciler_raises_and_ends_an_alert_and_looks_no_more_often_than_it_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    monkeypatch.setattr(paths, "RUN", str(tmp_path / "run"))
    monkeypatch.setattr(paths, "STATE", str(tmp_path / "state"))
    looks = []
    facts = {"vg0/tp": pool_facts(8100)}
    monkeypatch.setattr(pools, "look", lambda records: looks.append(1) or facts)
    records = [{"volume": "/dev/vg0/web1"}]

    def raised() -> list[tuple[str, str]]:
        return [(one["key"], one["severity"]) for one in alerts.active()]

    pools.note(records)
    assert not looks, "no pool, no look"
    device = tmp_path / "sys/block/dm-2/dm"
    device.mkdir(parents=True)
    (device / "uuid").write_text("LVM-abc-tpool\n")
    pools.note(records)
    assert raised() == [("vg0/tp", alerts.WARNING)] and len(looks) == 1
    pools.note(records)
    assert len(looks) == 1
    facts["vg0/tp"] = pool_facts(9900)
    monkeypatch.setattr(pools, "EVERY", -1.0)
    pools.note(records)
    assert raised() == [("vg0/tp", alerts.ERROR)]
    facts["vg0/tp"] = pool_facts(5000)
    pools.note(records)
    assert raised() == []
    facts["vg0/tp"] = pool_facts(9900)
    pools.note(records)
    (device / "uuid").unlink()
    pools.note(records)
    assert raised() == [], "the pool is gone"


def test_a_thin_snapshot_takes_from_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [10 * GIB]
    origin = replace(VOLUME, name="web1", size=4 * GIB, filled=5000)

    def facts() -> Any:
        filled = 10000 - free[0] * 10000 // (20 * GIB) - 1
        pool = Volume("vg0", "tp", 20 * GIB, kind="t", filled=filled, chunk=CHUNK, zeroes=True)
        return [origin, pool], {"vg0": Group("vg0", 40 * GIB, 0, EXTENT)}

    made: list[Volume] = []
    monkeypatch.setattr(recover.volumes, "facts", facts)
    monkeypatch.setattr(recover.volumes, "snapshot", lambda volume, *_: made.append(volume))
    monkeypatch.setattr(recover.statefile, "read", lambda _: {"volume": "/dev/vg0/web1"})
    monkeypatch.setattr(recover.volumes, "resolve", lambda *_: origin)
    monkeypatch.setattr(recover.events, "one", lambda _: SimpleNamespace(out_of_sync=64 * MIB))
    assert "kept as" in recover.snapshot("web1-xvda", "2026") and made == [origin]
    # 64 MiB of 4 KiB blocks, each in a chunk of its own, are 1 GiB
    free[0] = GIB
    assert "no snapshot: pool vg0/tp has" in recover.snapshot("web1-xvda", "2026")
    free[0] = GIB + 80 * MIB
    assert "kept as" in recover.snapshot("web1-xvda", "2026")


# the stories

CFG = "/etc/xen/web1.cfg"
USED = 64 * MIB


@pytest.fixture
def world(tmp_path: Path) -> World:
    """web1 on a thin volume of 2 GiB, an ordinary swap, and a pool of the same name on bob."""
    made = World(tmp_path / "world")
    made.lvm("alice", {"vg0": 16 * GIB}, {"vg0/swap": GIB})
    made.pool("alice", "vg0/tp", 8 * GIB)
    made.thin("alice", "vg0/web1", 2 * GIB, "tp", USED)
    made.pool("bob", "vg0/tp", GIB, 4 * CHUNK)
    disks = "disk=['phy:/dev/vg0/web1,xvda,w', 'phy:/dev/vg0/swap,xvdb,w']"
    made.write("alice", "etc/xen/web1.cfg", f"name='web1'\n{disks}\n")
    return made


def edit(world: World, host: str, name: str, **changes: Any) -> None:
    world.edit_volume(host, name, **changes)


def test_a_thin_volume_has_a_thin_copy_with_the_same_holes(world: World) -> None:
    said = world.run("alice", "cli", "plan", CFG)
    assert "its copy on bob is thin, in pool vg0/tp" in said.stdout and "tp" not in world.files("bob")
    done = world.run("alice", "create", CFG)
    assert done.returncode == 0, done.stderr
    copy = world.volumes("bob")["vg0/web1"]
    assert (copy["size"], copy["pool"], copy["used"]) == (2 * GIB, "tp", USED)
    assert "pool" not in world.volumes("bob")["vg0/swap"]
    for host in ("alice", "bob"):
        assert "pool" not in world.volumes(host)["vg0/web1_xhmeta"], "the group has room for it"
    text = world.read("bob", "etc/drbd.d/web1.res")
    assert text == world.read("alice", "etc/drbd.d/web1.res")
    assert text.count("rs-discard-granularity 65536;") == 1

    # bob loses it, and has it thin again
    world.lose("bob", "web1-xvda", ["vg0/web1", "vg0/web1_xhmeta"])
    dry = world.run("bob", "cli", "replicate", "web1", "--from-peer", "--dry-run")
    assert "/dev/vg0/web1 of 2.0 GiB, thin, in pool vg0/tp and fill it from alice" in dry.stdout, dry.stderr
    edit(world, "bob", "vg0/tp", zeroes=False)
    refused = world.run("bob", "cli", "replicate", "web1", "--from-peer")
    assert refused.returncode == 3 and "web1-xvda is thin on both hosts, and pool vg0/tp" in refused.stderr
    edit(world, "bob", "vg0/tp", zeroes=True)
    done = world.run("bob", "cli", "replicate", "web1", "--from-peer")
    assert done.returncode == 0, done.stderr
    copy = world.volumes("bob")["vg0/web1"]
    assert (copy["pool"], copy["used"]) == ("tp", USED)
    assert world.read("bob", "etc/drbd.d/web1.res") == text

    # it grows beyond what either pool has
    grown = world.run("alice", "cli", "grow", "web1", "xvda", "+20G")
    assert grown.returncode == 0, grown.stderr
    assert {world.volumes(host)["vg0/web1"]["size"] for host in ("alice", "bob")} == {22 * GIB}

    gone = world.run("alice", "cli", "forget", "web1", "--delete-peer-volumes")
    assert gone.returncode == 0, gone.stderr
    assert set(world.volumes("bob")) == {"vg0/tp"}
    assert set(world.volumes("alice")) == {"vg0/tp", "vg0/web1", "vg0/swap"}


def test_a_full_group_has_its_metadata_in_the_pool(world: World) -> None:
    path = world.folder / "bob.lvm.json"
    state = json.loads(path.read_text())
    state["groups"]["vg0"] = 2 * GIB + EXTENT  # the pool, the swap and its metadata
    path.write_text(json.dumps(state))
    done = world.run("alice", "create", CFG)
    assert done.returncode == 0, done.stderr
    assert world.volumes("bob")["vg0/web1_xhmeta"]["pool"] == "tp"
    assert "pool" not in world.volumes("bob")["vg0/swap_xhmeta"]


def test_no_pool_there_is_said_and_too_full_a_one_refused(world: World) -> None:
    edit(world, "bob", "vg0/tp", size=USED - MIB)
    before = world.volumes("alice"), world.volumes("bob")
    refused = world.run("alice", "create", CFG)
    assert refused.returncode == 3 and "thin pool vg0/tp on bob has 63 MiB free" in refused.stderr
    assert (world.volumes("alice"), world.volumes("bob")) == before
    world.lvm("bob", {"vg0": 16 * GIB}, {})
    done = world.run("alice", "create", CFG)
    assert done.returncode == 0, done.stderr
    assert "its copy on bob is an ordinary volume, not thin: vg0 on bob has no thin pool" in done.stderr
    assert "pool" not in world.volumes("bob")["vg0/web1"]
    assert "rs-discard-granularity" not in world.read("bob", "etc/drbd.d/web1.res")


@pytest.mark.parametrize("step", ["lvcreate", "drbdmeta", "drbdadm"])
def test_a_failure_there_leaves_nothing(world: World, step: str) -> None:
    before = world.volumes("alice"), world.volumes("bob")
    world.fault(f"fail bob {step}")
    assert world.run("alice", "create", CFG).returncode == 1
    world.reset_calls()
    assert (world.volumes("alice"), world.volumes("bob")) == before


@pytest.mark.parametrize("pool", [True, False])
def test_a_second_copy_that_moves_goes_by_the_new_hosts_pools(tmp_path: Path, pool: bool) -> None:
    made = World(tmp_path / "world", ("alice", "bob", "carol"))
    made.lvm("alice", {"vg0": 16 * GIB}, {})
    for host in ("alice", "bob", "carol") if pool else ("alice", "bob"):
        made.pool(host, "vg0/tp", 8 * GIB)
    made.thin("alice", "vg0/web1", 2 * GIB, "tp", USED)
    made.write("alice", "etc/xen/web1.cfg", "name='web1'\ndisk=['phy:/dev/vg0/web1,xvda,w']\n")
    first = made.run("alice", "cli", "replicate", CFG, "--peer", "bob")
    assert first.returncode == 0, first.stderr
    dry = made.run("alice", "cli", "replicate", "web1", "--peer", "carol", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    word = "is thin, in pool vg0/tp" if pool else "is an ordinary volume, not thin: vg0 on carol has no"
    assert f"disk xvda: its copy on carol {word}" in dry.stdout
    done = made.run("alice", "cli", "replicate", "web1", "--peer", "carol")
    assert done.returncode == 0, done.stderr
    copy = made.volumes("carol")["vg0/web1"]
    assert (copy.get("pool"), copy.get("used")) == (("tp", USED) if pool else (None, None))
    for host in ("alice", "carol"):
        assert ("rs-discard-granularity" in made.read(host, "etc/drbd.d/web1.res")) is pool
