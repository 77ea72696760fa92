"""``python3 -m tests.sim soak --schedules N --seed S`` and ``replay SEED``."""

import argparse
import sys
import time
from collections import Counter

from tests.sim import generate, playing, schedule, shims


def soak(count: int, seed: int, keep_going: bool, libvirt: bool = False) -> int:
    """Run ``count`` schedules from ``seed`` on. 1 when one failed."""
    started = time.monotonic()
    failures: "Counter[str]" = Counter()
    starts = migrations = lost = ports = 0
    for number in range(count):
        run = schedule.run_seed(seed + number, libvirt=libvirt)
        promises = run.world.promises
        starts += promises.starts
        migrations += promises.migrations
        lost += promises.lost
        ports += run.world.ports
        if run.failed is not None:
            failures[run.failed.promise] += 1
            print(f"seed {seed + number}: {run.failed}", flush=True)
            if not keep_going:
                break
        if (number + 1) % 5000 == 0:
            print(f"{number + 1} schedules, {sum(failures.values())} failed", flush=True)
    seconds = time.monotonic() - started
    print(
        f"{number + 1} schedules from seed {seed} in {seconds:.0f} s ({(number + 1) / seconds:.0f}/s): "
        f"{sum(failures.values())} failed {dict(failures)}; {starts} starts, {migrations} by migration, "
        f"{ports} port calls, {lost} blocks lost at protocol A by an accepted takeover"
    )
    return 1 if failures else 0


def replay(seed: int, whole: bool, libvirt: bool = False) -> int:
    """Run one schedule again with its trace; shortened first unless ``whole``."""
    run = schedule.run_seed(seed, libvirt=libvirt)
    vms, steps = generate.schedule(seed, libvirt)
    if run.failed is not None and not whole:
        steps = schedule.shrink(seed, run.failed.promise, libvirt)
    run = playing.Run(seed, vms, steps, trace=True, libvirt=libvirt)
    run.run()
    print("\n".join(run.world.lines))
    print(
        "steps:",
        *(f"  after {wait:.2f} s: {kind} {argument or ''}" for wait, kind, argument in steps),
        sep="\n",
    )
    print(run.failed or "nothing broken")
    return 1 if run.failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.sim", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("soak", help="run many schedules")
    one.add_argument("--schedules", type=int, default=200_000)
    one.add_argument("--seed", type=int, default=1)
    one.add_argument("--keep-going", action="store_true", help="don't stop at the first failure")
    two = commands.add_parser("replay", help="run one schedule again and print its trace")
    two.add_argument("seed", type=int)
    two.add_argument("--whole", action="store_true", help="don't shorten it first")
    for command in (one, two):
        command.add_argument("--libvirt", action="store_true", help="VMs that libvirt runs")
    args = parser.parse_args()
    with shims.installed():
        if args.command == "soak":
            return soak(args.schedules, args.seed, args.keep_going, args.libvirt)
        return replay(args.seed, args.whole, args.libvirt)


sys.exit(main())
