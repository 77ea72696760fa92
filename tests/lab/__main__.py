"""``python3 -m tests.lab``: the lab from a terminal. See README.md."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from . import image, qemu, release
from .host import CommandFailed
from .lab import Lab, LabError
from .wait import TimedOut


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m tests.lab", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("image", help="build the hosts' image")
    up = verbs.add_parser("up", help="bring both hosts up")
    up.add_argument("layer", nargs="?", default="booted")
    verbs.add_parser("down", help="switch both hosts off; snapshots stay")
    shell = verbs.add_parser("shell", help="a shell on a host")
    shell.add_argument("host")
    run = verbs.add_parser("run", help="run a command on a host")
    run.add_argument("--timeout", type=float, default=600)
    run.add_argument("host")
    run.add_argument("command", nargs="+")
    put = verbs.add_parser("put", help="copy a file to a host")
    put.add_argument("host")
    put.add_argument("source", type=Path)
    put.add_argument("target")
    reset = verbs.add_parser("reset", help="both hosts back to a layer")
    reset.add_argument("layer", nargs="?", default="booted")
    logs = verbs.add_parser("logs", help="collect the logs of both hosts")
    logs.add_argument("folder", type=Path)
    verbs.add_parser("status", help="what runs, and which snapshots there are")
    demo = verbs.add_parser("demo", help="a VM created and moved there and back, with a time line")
    demo.add_argument("--redraw", action="store_true", help="draw the last run again")
    for name, text in (("cut", "pull"), ("heal", "plug in")):
        cable = verbs.add_parser(name, help=f"{text} a cable")
        cable.add_argument("cable", choices=("link", "path"))
    shape = verbs.add_parser("shape", help="slow the replication link (0: full speed)")
    shape.add_argument("rate_mbit", type=float)
    shape.add_argument("delay_ms", type=float, nargs="?", default=0)
    power = verbs.add_parser("power", help="a host's power switch")
    power.add_argument("host")
    power.add_argument("state", choices=("on", "off"))
    return parser


def _status(lab: Lab) -> None:
    print(f"image   {image.directory(lab.release)}")
    print(f"lab     {lab.folder}")
    for host in lab.hosts:
        number = qemu.pid(host.machine)
        state = f"on (process {number}, ssh port {host.machine.ssh_port})" if number else "off"
        print(f"{host.name:7} {state}")
    print(f"layers  {' '.join(sorted(lab.snapshots())) or 'none'}")


def _shell(lab: Lab, name: str) -> None:
    command = lab.host(name).ssh_command(tty=True)
    os.execvp(command[0], command)


def _cables(lab: Lab, verb: str, cable: str) -> None:
    from . import link

    (link.cut if verb == "cut" else link.heal)(lab.hosts, cable)


def _act(arguments: argparse.Namespace) -> int:
    if arguments.verb == "image":
        print(image.build(release.current()))
        return 0
    if arguments.verb == "demo":
        from . import demo

        return demo.redraw() if arguments.redraw else demo.run()
    lab = Lab()
    match arguments.verb:
        case "up" | "reset":
            begin = time.monotonic()
            if arguments.verb == "up" and arguments.layer == "booted" and lab.is_up:
                print("lab: is up")
                return 0
            with lab.claim():
                lab.reset(arguments.layer)
            print(f"lab: up after {time.monotonic() - begin:.0f} s")
        case "down":
            with lab.claim():
                lab.down()
        case "shell":
            _shell(lab, arguments.host)
        case "run":
            command = " ".join(arguments.command)
            result = lab.host(arguments.host).run(command, arguments.timeout, check=False)
            sys.stdout.write(result.out)
            sys.stderr.write(result.err)
            return result.status
        case "put":
            lab.host(arguments.host).put(arguments.source, arguments.target)
        case "logs":
            print("\n".join(str(path) for path in lab.collect(arguments.folder)))
        case "status":
            _status(lab)
        case "cut" | "heal":
            _cables(lab, arguments.verb, arguments.cable)
        case "shape":
            if arguments.rate_mbit:
                lab.shape_link(arguments.rate_mbit, arguments.delay_ms)
            else:
                lab.unshape()
        case "power":
            host = lab.host(arguments.host)
            host.power_on() if arguments.state == "on" else host.power_off()
    return 0


def main() -> int:
    """Exit status: that of the command for ``run``; else 0, or 1 with one line."""
    try:
        return _act(_parser().parse_args())
    except (LabError, qemu.QemuError, TimedOut, CommandFailed) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
