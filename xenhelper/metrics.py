"""Metrics for Prometheus, through node_exporter's textfile collector: no port of ours.

The text format is that of prometheus.io/docs/instrumenting/exposition_formats; names end
in their unit, and what only grows in ``_total``. docs/metrics.md lists them.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from xenhelper import __version__, counters, insync, paths, statefile
from xenhelper.alerts import store
from xenhelper.drbd.proc import State
from xenhelper.errors import XenhelperError
from xenhelper.watch.world import World

Labels = Mapping[str, str]
SYNCS = ("SyncSource", "SyncTarget", "PausedSyncS", "PausedSyncT")


@dataclass(frozen=True)
class Family:
    """One metric: ``kind`` is gauge or counter."""

    name: str
    kind: str
    text: str
    samples: tuple[tuple[Labels, float], ...]


@dataclass(frozen=True)
class More:
    """What the watcher's look doesn't hold. ``verified``: when the last whole comparison
    ended (seconds since 1970) and how many bytes differed, by resource."""

    counters: Mapping[str, float] = field(default_factory=dict)
    alerts: tuple[Mapping[str, str], ...] = ()
    untold: int = 0
    in_sync: Mapping[str, float] = field(default_factory=dict)
    verified: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def read(world: World) -> More:
    """Read it. Raises OSError."""
    in_sync = {name: last for name in world.records if (last := insync.last(name)) is not None}
    return More(
        counters.read(), tuple(store.active()), len(store.queued()), in_sync, _verified(world.records)
    )


def _verified(names: Iterable[str]) -> dict[str, tuple[float, float]]:
    found = {}
    for name in names:
        try:
            record = statefile.read(f"{paths.STATE}/verify/{name}") or {}
        except XenhelperError:
            continue
        when = insync.seconds(record.get("whole_at", ""))
        if when is not None:
            differing = record.get("differing", "")
            repaired = record.get("state") == "repaired"
            found[name] = when, float(differing) if differing.isdecimal() and not repaired else 0.0
    return found


def families(world: World, more: More) -> list[Family]:
    """Every metric of this host. Pure."""
    found = [Family("xenhelper_info", "gauge", "This xenhelper.", (({"version": __version__}, 1.0),))]
    found += _resources(world, more)
    windows = {i.get("vm", ""): float(i.get("age", 0)) for i in world.intents if i.get("kind") == "window"}
    vms = sorted({record.get("vm", "") for record in world.records.values()})
    found.append(
        _family(
            "xenhelper_window_open_seconds",
            "How long the VM's migration window has been open; 0 while there is none.",
            (({"vm": vm}, windows.get(vm, 0.0)) for vm in vms),
        )
    )
    found.append(
        _family(
            "xenhelper_intent_age_seconds",
            "Age of a change that is under way or was interrupted.",
            (
                ({"vm": i.get("vm", ""), "change": i.get("kind", "")}, float(i.get("age", 0)))
                for i in world.intents
            ),
        )
    )
    found.append(
        _family(
            "xenhelper_running",
            "1 where the VM runs on this host.",
            (({"vm": vm}, float(vm in world.domains)) for vm in vms),
        )
    )
    migrations, failed = (
        more.counters.get(key, 0.0) for key in (counters.MIGRATIONS, counters.MIGRATIONS_FAILED)
    )
    found.append(
        Family(
            "xenhelper_migrations_total",
            "counter",
            "Migrations begun on this host that have ended, by how.",
            (({"result": "done"}, migrations), ({"result": "failed"}, failed)),
        )
    )
    found.append(
        Family(
            "xenhelper_migration_seconds_total",
            "counter",
            "Seconds that the migrations begun on this host have taken, failed ones too.",
            (({}, more.counters.get(counters.MIGRATION_SECONDS, 0.0)),),
        )
    )
    return [*found, *_alerts(more)]


def _resources(world: World, more: More) -> Iterable[Family]:
    labels = {
        name: {"resource": name, "vm": record.get("vm", ""), "peer": record.get("peer", "")}
        for name, record in sorted(world.records.items())
    }

    def each(name: str, text: str, value: Callable[[State], bool | float]) -> Family:
        samples = (
            (labels[resource], float(value(state)))
            for resource in labels
            if (state := world.state(resource)) is not None
        )
        return _family(f"xenhelper_resource_{name}", text, samples)

    yield _family(
        "xenhelper_resource_up",
        "1 where the resource is configured in the kernel.",
        ((labels[name], float(world.state(name) is not None)) for name in labels),
    )
    yield each("connected", "1 while both hosts talk, a resync or verify included.", lambda s: s.talks)
    yield each("primary", "1 while this host is Primary.", lambda s: s.role == "Primary")
    yield each(
        "peer_primary", "1 while the other host is known to be Primary.", lambda s: s.peer_role == "Primary"
    )
    yield each("up_to_date", "1 while the copy here is UpToDate.", lambda s: s.disk == "UpToDate")
    yield each(
        "peer_up_to_date", "1 while the other copy is known UpToDate.", lambda s: s.peer_disk == "UpToDate"
    )
    yield each("syncing", "1 while a resync is under way.", lambda s: s.connection in SYNCS)
    yield each(
        "out_of_sync_bytes", "Bytes that differ or may differ between both copies.", lambda s: s.out_of_sync
    )
    sizes = ((labels[name], float(size)) for name in labels if (size := _size(world.records[name])))
    yield _family("xenhelper_resource_size_bytes", "Size of the volume.", sizes)
    in_sync = {name: world.now if _in_sync(world.state(name)) else more.in_sync.get(name) for name in labels}
    yield _family(
        "xenhelper_resource_in_sync_timestamp_seconds",
        "When both copies were last known to be the same.",
        ((labels[name], when) for name, when in in_sync.items() if when is not None),
    )
    verified = {name: more.verified[name] for name in labels if name in more.verified}
    yield _family(
        "xenhelper_verify_timestamp_seconds",
        "When both copies were last compared to the end.",
        ((labels[name], when) for name, (when, _) in verified.items()),
    )
    yield _family(
        "xenhelper_verify_differing_bytes",
        "Bytes that the last comparison found to differ.",
        ((labels[name], differing) for name, (_, differing) in verified.items()),
    )


def _alerts(more: More) -> Iterable[Family]:
    by_severity = {
        severity: sum(record.get("severity") == severity for record in more.alerts)
        for severity in store.SEVERITIES
    }
    yield _family(
        "xenhelper_alerts",
        "Alerts that are raised, by severity.",
        (({"severity": severity}, float(count)) for severity, count in by_severity.items()),
    )
    yield _family(
        "xenhelper_alert_raised",
        "1 for each alert that is raised.",
        (
            ({key: record.get(key, "") for key in ("kind", "key", "severity", "vm", "resource")}, 1.0)
            for record in more.alerts
        ),
    )
    yield _family(
        "xenhelper_alerts_untold",
        "Alerts of which some channel hasn't been told yet.",
        (({}, float(more.untold)),),
    )


def _family(name: str, text: str, samples: Iterable[tuple[Labels, float]]) -> Family:
    return Family(name, "gauge", text, tuple(samples))


def _size(record: Mapping[str, str]) -> int:
    text = record.get("size_bytes", "")
    return int(text) if text.isdecimal() else 0


def _in_sync(state: State | None) -> bool:
    return state is not None and state.talks and state.disk == state.peer_disk == "UpToDate"


def render(found: Iterable[Family]) -> str:
    """The text format; a metric without samples is left out."""
    lines = []
    for family in found:
        if not family.samples:
            continue
        lines += [f"# HELP {family.name} {family.text}", f"# TYPE {family.name} {family.kind}"]
        for labels, value in family.samples:
            inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
            lines.append(
                f"{family.name}{{{inside}}} {value:.15g}" if inside else f"{family.name} {value:.15g}"
            )
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def write(text: str, path: str) -> None:
    """Replace the file at once, as the collector wants it. Raises OSError."""
    temporary = f"{path}.{os.getpid()}"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            # the watcher's umask is 077, and node_exporter isn't root
            os.fchmod(fd, 0o644)
            view = memoryview(text.encode())
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise
