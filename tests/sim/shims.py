"""What the product's modules find instead of their ports: programs, the peer, the log, xl.

:func:`installed` puts these and system.py's into every module of the product and takes them
out again.
"""

import contextlib
import importlib
import json
import sys
from collections.abc import Iterator
from typing import Any

from tests.sim import here, store, system, tools
from tests.sim.here import me
from tests.sim.kernel import Killed, Process
from xenhelper.errors import CommandFailed, PeerUnreachable, XenhelperError

MODULES = (
    "errors", "run", "paths", "statefile", "names", "intents", "log", "permits", "hotplug", "letgo", "ahead",
    "steady", "handover", "window", "migrate", "fence", "reconcile", "destination", "boot", "xl", "hosts",
    "config", "volumes", "drbd.events", "drbd.show", "drbd.verbs", "drbd.barrier", "drbd.bringup",
    "drbd.adm", "drbd.proc", "xen.xenstore", "xen.domains", "xen.description", "peer.client",
    "peer.messages", "peer.verbs", "peer.oneshot", "insync", "splitbrain", "ceded", "autostart",
    "restore", "takeover", "recover", "stepdown", "alive", "drbdevent", "vmfile", "peer.about", "crash",
    "lease", "halfopen", "handed", "alerts", "alerts.store", "leftover", "counters", "moved", "shelf",
    "oldcopy", "dead", "virt", "virt.devices", "virt.definition", "virt.hook", "virt.moving", "virt.source",
    "virt.hold", "virt.saved", "virt.settle", "virt.api",
)  # fmt: skip
# modules that keep the real thing: the ports' own insides
LEFT = ("xenhelper.run", "xenhelper.peer.client", "xenhelper.peer.oneshot", "xenhelper.xen.xenstore",
        "xenhelper.paths", "xenhelper.config", "xenhelper.log")  # fmt: skip


def sim_run(
    argv: "list[str]",
    timeout: float = 10.0,
    ok: "tuple[int, ...] | None" = (0,),
    stdin: "bytes | None" = None,
    env: "dict[str, str] | None" = None,
) -> Any:
    """run.run: start a program, wait for it, bounded."""
    from xenhelper.run import Result

    process = me()
    label = " ".join(argv[:3]) if "/" not in argv[0] else "xl " + " ".join(argv[1:3])
    here.W.port(process, label, 0.0, pause=False)
    tool = tools.TOOLS.get(argv[0])
    if tool is None:
        if argv[0] in ("modprobe", "udevadm"):
            return Result(0, "", "")
        if argv[0] == "systemctl":
            return Result(1, "stopping\n" if process.host.stopping else "running\n", "")
        raise AssertionError(f"{argv[0]} isn't simulated")
    host = process.host
    started = here.W.loop.now
    random = here.W.random
    if tools.waits(argv):
        child = Process(here.W, host, label, lambda: tool(child, argv))
        child.held = True
        child.start(here.W.latency())
        if not process.wait(child, timeout):
            # killed, but it sits in the kernel: it goes on there and is left alone
            raise CommandFailed(argv, None, "", timeout)
        if child.error is not None:
            raise child.error
        status, out, err = child.result or (1, "", "killed")
    else:
        if random.random() < here.W.hang:
            seconds = random.random() * 15.0
            if seconds > timeout:
                here.W.hangs += 1
                process.block(timeout)
                if random.random() < 0.5:
                    tool(process, argv)
                raise CommandFailed(argv, None, "", timeout)
            process.block(seconds)
        else:
            process.block(here.W.latency())
        if argv[0] == "drbdsetup":
            while host.netlink is not None and host.netlink.status is None:
                if here.W.loop.now - started > timeout:
                    raise CommandFailed(argv, None, "", timeout)
                process.block(0.03)
        status, out, err = tool(process, argv)
    here.W.port(process, label, 0.0, pause=False, after=True)
    if ok is not None and status not in ok:
        raise CommandFailed(argv, status, err or out, timeout)
    return Result(status, out, err)


def sim_ask(peer: str, verb: str, args: "dict[str, object]", timeout: float = 10.0) -> "dict[str, object]":
    """client.ask: the real function of the verb, as a process of the other host."""
    from xenhelper import dead
    from xenhelper.peer import messages, verbs

    process = me()
    here.W.port(process, f"ask {verb}", 0.0, pause=False)
    there = here.W.hosts[peer]
    link = here.W.management
    random = here.W.random
    if not (link.up and there.power and there.serving):
        # a dropped connection says so at once; one that isn't noticed yet takes the time
        process.block(timeout if random.random() < 0.3 else min(timeout, random.random()))
        raise PeerUnreachable(f"{peer} gave no answer in time over the management path")
    deadline = here.W.loop.now + timeout
    fate = random.random()
    if fate < here.W.loss:
        process.block(timeout)
        raise PeerUnreachable(f"{peer} gave no answer in time over the management path")
    function, schema = verbs.handler(verb)
    sent = json.loads(json.dumps(args))

    def serve() -> int:
        dead.heard(process.host.name)
        try:
            answer = function(process.host.name, messages.check(verb, sent, schema))
            server.answer = {"ok": json.loads(json.dumps(answer))}  # type: ignore[attr-defined]
        except XenhelperError as error:
            server.answer = {  # type: ignore[attr-defined]
                "error": error.what, "do": error.do, "exit": error.exit_code
            }  # fmt: skip
        return 0

    server = Process(here.W, there, f"serve {verb}", serve, product=True)
    server.answer = None  # type: ignore[attr-defined]
    here.W.watch(server)
    server.start(0.002 + random.random() * 0.05)
    ended = process.wait(server, timeout)
    here.W.port(process, f"ask {verb}", 0.0, pause=False, after=True)
    answer = server.answer  # type: ignore[attr-defined]
    if not ended or answer is None or not link.up or fate < 2 * here.W.loss:
        if here.W.loop.now < deadline and link.up and random.random() < 0.5:
            process.block(max(0.0, deadline - here.W.loop.now))
        raise PeerUnreachable(f"{peer} gave no answer in time over the management path")
    process.block(0.002)
    dead.heard(peer)
    return messages.result(peer, answer)


def sim_event(kind: str, message: str, priority: int = 6, **fields: str) -> None:
    """log.event."""
    process = here.W.loop.current
    if process.dead:
        raise Killed
    here.W.logged(process, kind, message, priority)


def sim_print(*words: Any, **_: Any) -> None:
    here.W.say(me(), " ".join(str(word) for word in words))


def sim_start_xl(argv: "list[str]", ignored: Any) -> int:
    """migrate._start_xl: a child that inherits the VM's lock."""
    process = me()
    here.W.port(process, "start xl", 0.01)
    return int(here.W.start_xl(process, argv).pid)


def sim_sign_of_life(peer: Any) -> str:
    """alive.sign_of_life: any path will do."""
    process = me()
    process.block(1.0)
    there = here.W.hosts[peer.name]
    return "it answers ping" if there.power and (here.W.management.up or here.W.link.up) else ""


def sim_activity(vm: str, seconds: float = 5.0) -> "tuple[str, float]":
    """virt.api.activity: what libvirt says of its jobs; nothing while a hook of the VM runs."""
    from xenhelper.virt import api

    process = me()
    here.W.port(process, "libvirt job", 0.02)
    host = process.host
    deadline = here.W.loop.now + seconds
    while vm in host.hooked:
        if here.W.loop.now > deadline:
            return api.BUSY, 0.0
        process.block(0.1)
    if vm in host.jobs:
        return api.BUSY, here.W.loop.now - host.jobs[vm]
    return api.IDLE, 0.0


def sim_is_host(typed: str, peer: Any) -> bool:
    return bool(typed == peer.name)


def sim_config(path: str = "") -> Any:
    return here.W.config(me().host)


@contextlib.contextmanager
def installed() -> "Iterator[None]":
    """The product over the simulated ports, within this block."""
    from xenhelper import config, hosts, log, migrate, run
    from xenhelper.peer import client
    from xenhelper.xen import xenstore

    for name in MODULES:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module("xenhelper." + name)
    shims = {
        "os": system.Os(), "time": system.Time(), "fcntl": system.Fcntl(), "signal": system.Signal(),
        "_thread": system.Thread(), "glob": system.Glob(),
    }  # fmt: skip
    undo: "list[tuple[Any, str, Any, bool]]" = []

    def put(module: Any, name: str, value: Any) -> None:
        there = name in vars(module)
        undo.append((module, name, vars(module).get(name), there))
        setattr(module, name, value)

    real_run, real_client = run.run, xenstore.Xenstore
    for name, module in list(sys.modules.items()):
        if not name.startswith("xenhelper.") or name in LEFT:
            continue
        for attribute, value in shims.items():
            if attribute in vars(module):
                put(module, attribute, value)
        if vars(module).get("run") is real_run:
            put(module, "run", sim_run)
        if vars(module).get("Xenstore") is real_client:
            put(module, "Xenstore", store.Client)
        put(module, "open", system.sim_open)
        put(module, "print", sim_print)
    put(run, "run", sim_run)
    put(xenstore, "Xenstore", store.Client)  # some import it only where they use it
    put(client, "ask", sim_ask)
    put(log, "event", sim_event)
    put(config, "load", sim_config)
    put(hosts, "is_host", sim_is_host)
    put(importlib.import_module("xenhelper.virt.api"), "activity", sim_activity)
    put(migrate, "_start_xl", sim_start_xl)
    with contextlib.suppress(ModuleNotFoundError):
        put(importlib.import_module("xenhelper.alive"), "sign_of_life", sim_sign_of_life)
    try:
        yield
    finally:
        for module, name, value, there in reversed(undo):
            if there:
                setattr(module, name, value)
            else:
                delattr(module, name)
