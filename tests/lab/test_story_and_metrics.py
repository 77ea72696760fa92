"""What a host tells afterwards: `xenhelper log` as a story, and metrics that agree with what is so."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from . import figures, product
from .guest import Guest
from .host import Host
from .lab import Lab
from .told import clock
from .wait import wait_until

RESOURCES = ["web1-xvda", "web1-xvdb"]
FOLDER = "/var/lib/prometheus/node-exporter"
FILE = f"{FOLDER}/xenhelper.prom"


class Metrics:
    """One look at a host's file, read by Prometheus' own parser."""

    def __init__(self, host: Host) -> None:
        self.samples = [
            sample for family in text_string_to_metric_families(host.read(FILE)) for sample in family.samples
        ]

    def all(self, name: str, **labels: str) -> list[float]:
        return [s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items()]

    def __call__(self, name: str, **labels: str) -> float:
        found = self.all(name, **labels)
        assert len(found) == 1, f"{name} {labels}: {found}"
        return found[0]


def _wait(host: Host, what: str, name: str, value: float, **labels: str) -> Metrics:
    """Until it has that value: the watcher writes at each change, and once a minute."""
    wait_until(lambda: Metrics(host).all(name, **labels) == [value], 240, f"{what} on {host.name}", every=2)
    return Metrics(host)


def _differs(now: Metrics, vm: dict[str, Any], host: Host, connected: bool) -> list[str]:
    wanted = [("xenhelper_running", {"vm": "web1"}, float(vm["runs_on"] == host.name))]
    for disk in vm["disks"]:
        labels = {"resource": disk["resource"], "vm": "web1", "peer": disk["peer"]}
        values = {
            "up": True,
            "connected": connected,
            "primary": disk["role"] == "Primary",
            "peer_primary": disk["peer_role"] == "Primary",
            "up_to_date": disk["disk_state"] == "UpToDate",
            "peer_up_to_date": disk["peer_disk_state"] == "UpToDate",
            "syncing": False,
            "size_bytes": disk["size_bytes"],
        }
        wanted += [(f"xenhelper_resource_{name}", labels, float(value)) for name, value in values.items()]
    return [
        f"{name} {labels}: {found}, not {value}"
        for name, labels, value in wanted
        if (found := now.all(name, **labels)) != [value]
    ]


def _agree(host: Host, connected: bool = True) -> tuple[Metrics, dict[str, Any]]:
    """Both, once what stands there is what status says: it is written at each change, and once
    a minute."""
    for _ in range(20):
        now, vm = Metrics(host), product.vm(host, "web1")
        assert len(vm["disks"]) == 2
        differs = _differs(now, vm, host, connected)
        if not differs:
            break
        host.run("sleep 5")
    assert differs == [], host.name
    return now, vm


def _entries(host: Host, *more: str) -> list[dict[str, Any]]:
    out = host.out(f"xenhelper log web1 --json {' '.join(more)}")
    return [json.loads(line) for line in out.splitlines()]


def _in_order(entries: list[dict[str, Any]], host: str, kinds: list[str]) -> None:
    """These kinds come in this order in one host's part (both clocks needn't be the same)."""
    told = [entry["kind"] for entry in entries if entry["host"] == host]
    at = 0
    for kind in kinds:
        assert kind in told[at:], f"no {kind} after {told[:at]} in {told}"
        at = told.index(kind, at) + 1


def test_a_migration_is_a_story_and_in_the_metrics(lab: Lab) -> None:
    alice, bob = lab.hosts
    for host in lab.hosts:
        host.run(f"mkdir -p {FOLDER}")
    alice.run("xenhelper verify web1", 300)
    alice.run(
        f"nohup sh -c 'while sleep 1; do grep -hE \"^xenhelper_(window_open|intent_age)\" {FILE}; done' "
        ">/root/samples 2>/dev/null </dev/null & echo $! >/root/sampling"
    )
    before = clock(alice)
    product.migrate(alice, "bob")
    took = clock(alice) - before
    Guest(bob, "web1").wait_progress(120)
    now = _wait(alice, "the migration counted", "xenhelper_migrations_total", 1.0, result="done")
    alice.run("kill $(cat /root/sampling)")
    seen = alice.read("/root/samples")

    # the story, on either host
    entries = _entries(alice)
    _in_order(entries, "alice", ["replicated", "added", "window-open", "window-granted", "window-closed"])
    _in_order(entries, "alice", ["added", "window-open", "removed"])
    _in_order(entries, "bob", ["added"])
    for entry in entries:
        assert entry["vm"] == "web1" or entry["resource"] in RESOURCES or "web1" in entry["message"], entry
    migrated = [e for e in entries if e["kind"] == "window-closed" and e["vm"] == "web1" and e["seconds"]]
    assert len(migrated) == 1 and migrated[0]["intent"] == "window-web1"
    assert 0 < float(migrated[0]["seconds"]) <= took
    for name in ("alice", "bob"):
        added = [e for e in entries if e["kind"] == "added" and e["host"] == name]
        assert {e["resource"] for e in added} == set(RESOURCES), name
        assert all(float(e["seconds"]) > 0 for e in added)
    text = alice.out("xenhelper log web1")
    print(text)
    figures.note("log web1", lines=text.splitlines())
    assert re.match(r"\w+day, \d{4}-\d\d-\d\d\n  \d\d:\d\d:\d\d ", text)
    assert re.search(r" alice  web1: protocol C for a migration to bob \([\d.]+ s\)$", text, re.M)
    assert re.search(r" alice  web1: xl migrate ended with 0 after [\d.]+ s$", text, re.M)
    assert re.search(r" bob    web1-xvda is web1\S*'s disk now \([\d.]+ s\)$", text, re.M)
    there = _entries(bob)
    key = {(entry["host"], entry["kind"], entry["message"]) for entry in entries}
    assert key <= {(entry["host"], entry["kind"], entry["message"]) for entry in there}
    assert {entry["host"] for entry in _entries(bob, "--here")} == {"bob"}

    # the metrics, of the migration, of what is compared and in sync, on both
    assert now("xenhelper_migrations_total", result="failed") == 0
    assert 0 < now("xenhelper_migration_seconds_total") <= took
    open_for = [
        float(v) for v in re.findall(r'^xenhelper_window_open_seconds\{vm="web1"\} (\S+)', seen, re.M)
    ]
    assert 0 < max(open_for) <= took + 2, seen
    assert 'xenhelper_intent_age_seconds{vm="web1",change="window"}' in seen
    for host in lab.hosts:
        _wait(host, "no window", "xenhelper_window_open_seconds", 0.0, vm="web1")
        for severity in ("info", "warning", "error", "critical"):
            _wait(host, "no alert", "xenhelper_alerts", 0.0, severity=severity)
        there_now, vm = _agree(host)
        assert there_now.all("xenhelper_intent_age_seconds") == []
        assert there_now("xenhelper_info") == 1
        assert there_now.all("xenhelper_alert_raised") == []
        assert there_now("xenhelper_alerts_untold") == 0
        for disk in vm["disks"]:
            name = disk["resource"]
            in_sync = there_now("xenhelper_resource_in_sync_timestamp_seconds", resource=name)
            assert abs(clock(host) - in_sync) < 180, name
            compared = datetime.fromisoformat(disk["last_verify"]["whole_at"].replace("Z", "+00:00"))
            verified = there_now("xenhelper_verify_timestamp_seconds", resource=name)
            assert verified == compared.timestamp(), name
            assert there_now("xenhelper_verify_differing_bytes", resource=name) == 0

    # a lost link: on bob, where the guest writes on
    lab.silence_link()
    wait_until(lambda: "cs:Connected" not in bob.read("/proc/drbd"), 120, "the loss", every=1)
    _wait(bob, "both lost links", "xenhelper_alerts", 2.0, severity="warning")
    now, _ = _agree(bob, connected=False)
    for name in RESOURCES:
        assert now("xenhelper_alert_raised", kind="connection", resource=name, severity="warning") == 1
        assert 0 < now("xenhelper_resource_out_of_sync_bytes", resource=name) <= 64 << 20
    lab.unshape()
    product.wait_in_sync(bob, *RESOURCES)
    _wait(bob, "its end", "xenhelper_alerts", 0.0, severity="warning")
    for name in RESOURCES:
        _wait(bob, "nothing to copy", "xenhelper_resource_out_of_sync_bytes", 0.0, resource=name)
    _agree(bob)
    story = _entries(bob, "--here")
    _in_order(story, "bob", ["added", "alert", "alert-over"])
