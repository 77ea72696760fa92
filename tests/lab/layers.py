"""The states a test can start from, each made once and kept as a snapshot.

A layer is built on top of another. Its snapshot is named by the layer and a
hash of what went into it, so that a new .deb makes new snapshots and the old
ones are dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from . import bare, carol, debianguest, qemu, results, scenario, virt
from .lab import Lab, LabError


@dataclass(frozen=True)
class Layer:
    """How to get from the layer ``base`` to this one."""

    name: str
    base: str | None
    build: Callable[[Lab], None]
    key: Callable[[Lab], str] = lambda lab: ""
    hosts: int = 2


def _deb_key(lab: Lab) -> str:
    return results.product_hash(lab.deb())


def _three(lab: Lab) -> None:
    carol.join(lab, tag(lab, LAYERS["vm"]))


LAYERS = {
    layer.name: layer
    for layer in (
        Layer("booted", None, lambda lab: lab.boot()),
        Layer("paired", "booted", scenario.pair, _deb_key),
        Layer("vm", "paired", scenario.create_web1, _deb_key),
        Layer("debian", "paired", debianguest.create, _deb_key),
        Layer("three", "vm", _three, _deb_key, hosts=3),
        Layer("libvirt", "paired", virt.install, _deb_key),
        Layer("replicated", "booted", bare.build, bare.key),
    )
}


def tag(lab: Lab, layer: Layer) -> str:
    """The snapshot's name."""
    key = layer.key(lab)
    return f"{layer.name}-{key}" if key else layer.name


def _drop_older(lab: Lab, layer: Layer, keep: str) -> None:
    for old in lab.snapshots():
        if old.partition("-")[0] == layer.name and old != keep:
            for host in lab.hosts:
                qemu.monitor(host.machine, f"delvm {old}")


def ensure(lab: Lab, name: str) -> None:
    """Bring the hosts to the layer, from its snapshot or by building it."""
    if name not in LAYERS:
        raise LabError(f"no layer {name!r}: there are {', '.join(LAYERS)}")
    layer = LAYERS[name]
    lab.use(layer.hosts)
    wanted = tag(lab, layer)
    begin = time.monotonic()
    if wanted in lab.snapshots():
        lab.load(wanted)
        print(f"lab: at {wanted} after {time.monotonic() - begin:.1f} s", flush=True)
        return
    if layer.base:
        ensure(lab, layer.base)
        begin = time.monotonic()
    layer.build(lab)
    _drop_older(lab, layer, wanted)
    lab.save(wanted)
    lab.both(lambda host: host.wait_for_ssh(120))
    print(f"lab: made {wanted} in {time.monotonic() - begin:.1f} s", flush=True)
