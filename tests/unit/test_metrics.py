"""Metrics: parsed back by Prometheus' own library, and named by every rule that uses them."""

import math
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from xenhelper import alerts, counters, metrics, paths, statefile
from xenhelper.drbd import proc
from xenhelper.watch.world import World

ROOT = Path(__file__).parents[2]
CAPTURED = Path(__file__).parent / "captured"
NOW = 1_800_000_000.0
RECORDS = {
    f"web1-xvd{letter}": {
        "vm": "web1", "vdev": f"xvd{letter}", "minor": minor, "peer": "bob", "size_bytes": "67108864",
    }
    for letter, minor in (("a", "1000"), ("b", "1001"), ("c", "1002"))
}  # fmt: skip


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATE", "LOCKS", "CRASH_AT"):
        monkeypatch.setattr(paths, name, str(tmp_path / name.lower()))


def world(**changes: Any) -> World:
    states = proc.parse((CAPTURED / "proc-drbd-disconnected-guest-writing-alice.txt").read_text())[1]
    window = {"kind": "window", "vm": "web1", "age": "42"}
    values = {"states": states, "records": RECORDS, "intents": (window,), "domains": ("Domain-0", "web1")}
    return World(NOW, **{**values, **changes})


def parsed(seen: World) -> dict[str, Any]:
    text = metrics.render(metrics.families(seen, metrics.read(seen)))
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(found: dict[str, Any], name: str, **labels: str) -> float:
    (sample,) = [
        sample
        for sample in found[name].samples
        if labels.items() <= sample.labels.items() and not sample.name.endswith("_created")
    ]
    return float(sample.value)


def test_everything_is_parsed_back() -> None:
    alerts.raise_("disk", 'odd "key"\\', "x", vm="web1", severity=alerts.CRITICAL)
    statefile.write(f"{paths.STATE}/in_sync/web1-xvda", {"at": "2026-11-25T20:00:00Z"})
    statefile.write(
        f"{paths.STATE}/verify/web1-xvda",
        {"whole_at": "2026-11-20T20:00:00Z", "differing": "4096", "state": "differs"},
    )
    counters.add(**{counters.MIGRATIONS: 3, counters.MIGRATION_SECONDS: 61.5})
    counters.add(**{counters.MIGRATIONS: 1, counters.MIGRATIONS_FAILED: 1})
    found = parsed(world())
    assert value(found, "xenhelper_resource_connected", resource="web1-xvda") == 0
    assert value(found, "xenhelper_resource_primary", resource="web1-xvda") == 1
    assert value(found, "xenhelper_resource_up_to_date", resource="web1-xvda", peer="bob", vm="web1") == 1
    assert value(found, "xenhelper_resource_peer_up_to_date", resource="web1-xvda") == 0
    assert value(found, "xenhelper_resource_out_of_sync_bytes", resource="web1-xvda") > 0
    assert value(found, "xenhelper_resource_size_bytes", resource="web1-xvda") == 64 << 20
    assert value(found, "xenhelper_resource_up", resource="web1-xvdc") == 0
    assert {s.labels["resource"] for s in found["xenhelper_resource_connected"].samples} == {
        "web1-xvda", "web1-xvdb",
    }  # fmt: skip
    assert value(found, "xenhelper_resource_in_sync_timestamp_seconds") == 1795636800
    assert value(found, "xenhelper_verify_timestamp_seconds") == 1795204800
    assert value(found, "xenhelper_verify_differing_bytes") == 4096
    assert value(found, "xenhelper_window_open_seconds", vm="web1") == 42
    assert value(found, "xenhelper_running", vm="web1") == 1
    assert found["xenhelper_migrations"].type == "counter"
    assert value(found, "xenhelper_migrations", result="done") == 4
    assert value(found, "xenhelper_migrations", result="failed") == 1
    assert value(found, "xenhelper_migration_seconds") == 61.5
    assert value(found, "xenhelper_alert_raised", key='odd "key"\\', severity="critical") == 1
    assert value(found, "xenhelper_alerts", severity="critical") == 1
    assert value(found, "xenhelper_alerts", severity="info") == 0
    assert value(found, "xenhelper_alerts_untold") == 1


def test_in_sync_is_now_while_it_is() -> None:
    states = proc.parse((CAPTURED / "proc-drbd-connected-idle-alice.txt").read_text())[1]
    found = parsed(world(states=states, intents=()))
    assert value(found, "xenhelper_resource_in_sync_timestamp_seconds", resource="web1-xvda") == NOW
    assert value(found, "xenhelper_window_open_seconds") == 0
    assert "xenhelper_intent_age_seconds" not in found and "xenhelper_verify_timestamp_seconds" not in found


def test_names_follow_the_conventions() -> None:
    for name, family in parsed(world()).items():
        assert re.fullmatch(r"xenhelper(_[a-z]+)+", name), name
        assert family.documentation.endswith("."), name
        assert family.type in ("gauge", "counter")
        for sample in family.samples:
            assert math.isfinite(sample.value) and not sample.name.endswith("_total_total")


def test_a_host_without_vms() -> None:
    found = parsed(World(NOW, {}, {}))
    assert value(found, "xenhelper_info") == 1 and "xenhelper_resource_up" not in found


def test_the_file_is_replaced_at_once_and_readable(tmp_path: Path) -> None:
    path = tmp_path / "xenhelper.prom"
    os.umask(0o077)
    try:
        metrics.write("a 1\n", str(path))
        metrics.write("a 2\n", str(path))
    finally:
        os.umask(0o022)
    assert path.read_text() == "a 2\n" and os.listdir(tmp_path) == ["xenhelper.prom"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    with pytest.raises(OSError):
        metrics.write("a 3\n", str(tmp_path / "none/xenhelper.prom"))


def test_rules_and_page_name_what_there_is() -> None:
    exported = set()
    statefile.write(f"{paths.STATE}/verify/web1-xvda", {"whole_at": "2026-11-20T20:00:00Z", "differing": "0"})
    alerts.raise_("disk", "r", "x")
    for family in metrics.families(world(), metrics.read(world())):
        exported.add(family.name)
    exported.add("xenhelper_resource_in_sync_timestamp_seconds")
    rules = yaml.safe_load((ROOT / "docs/prometheus-rules.yml").read_text())
    names = set()
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"} and rule["alert"]
            used = set(re.findall(r"\bxenhelper_\w+", rule["expr"]))
            assert used <= exported, used - exported
            names |= used
    assert len(names) >= 12
    page = (ROOT / "docs/metrics.md").read_text()
    listed = set(re.findall(r"`(xenhelper_\w+)`", page)) | {
        f"xenhelper_resource_{name}" for name in re.findall(r"`…_(\w+)`", page)
    }
    assert listed == exported


def test_counters_outlive_rubbish(tmp_path: Path) -> None:
    statefile.write(counters.path(), {"migrations": "x", "migration_seconds": "2.5"})
    counters.add(migrations=1)
    assert counters.read() == {"migrations": 1.0, "migration_seconds": 2.5}
