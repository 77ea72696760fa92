"""``make demo``: a VM created and moved there and back on two real Xen hosts, with a time line."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from . import demo_bars, demo_needs, demo_record, demo_svg, image, layers, product, qemu, release, scenario
from . import demo_timeline as tl
from .demo_needs import DemoError
from .demo_progress import Progress, on_stdout
from .guest import Guest
from .host import CommandFailed, CommandTimedOut, Host
from .lab import Lab, LabError
from .wait import TimedOut

SVG, DATA, LOGS = Path("dist/demo.svg"), Path("dist/demo.json"), Path("build/demo-logs")
STEPS = 8
TITLE = "web1: created on alice, moved to bob and back to alice"
RESOURCES = ["web1-xvda", "web1-xvdb"]
# The first two minors of a new installation; the run checks that it got them.
MINORS = [1000, 1001]
FAILURES = (
    DemoError, LabError, qemu.QemuError, TimedOut, CommandFailed, CommandTimedOut, AssertionError,
    subprocess.CalledProcessError, subprocess.TimeoutExpired,
)  # fmt: skip


def run() -> int:
    """Exit status: 0, 1 with one line about what failed, 130 after Ctrl-C."""
    progress = on_stdout(STEPS)
    try:
        needs = demo_needs.look()
        progress.say(needs.text())
        demo_needs.check(needs)
        if not demo_needs.consent():
            progress.say("nothing was done")
            return 1
        with progress.step("Debian packages and the product's .deb"):
            demo_needs.install(progress)
        return _in_lab(progress)
    except KeyboardInterrupt:
        progress.say("\nstopped")
        return 130
    except FAILURES as error:
        progress.say(f"\ndemo: {error}", "31")
        return 1


def _in_lab(progress: Progress) -> int:
    lab = Lab()
    with lab.claim():
        lab.check_alone()
        if any(host.is_on for host in lab.hosts):
            raise LabError("the lab is up already: `make lab-down` first")
        with _switched_off(lab, progress):
            try:
                _story(lab, progress)
            except FAILURES:
                _keep_logs(lab, progress)
                raise
    return 0


@contextlib.contextmanager
def _switched_off(lab: Lab, progress: Progress) -> Iterator[None]:
    """No host runs after this, unless KEEP is set and nobody pressed Ctrl-C.

    Ctrl-C switches the hosts off at once: whatever waits for one of them, in
    whichever thread, then ends by itself.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signal_number, signal.SIG_IGN)
        for host in lab.hosts:
            qemu.stop(host.machine)
        raise KeyboardInterrupt

    before = [(number, signal.signal(number, stop)) for number in (signal.SIGINT, signal.SIGTERM)]
    keep = bool(os.environ.get("KEEP"))
    try:
        yield
    except KeyboardInterrupt:
        keep = False
        raise
    finally:
        for number, _ in before:
            signal.signal(number, signal.SIG_IGN)
        if not keep:
            lab.down()
        for number, handler in before:
            signal.signal(number, handler)
        progress.say(f"\n{_afterwards(keep)}")


def _afterwards(kept: bool) -> str:
    if kept:
        return (
            "Both hosts run on (KEEP): `make lab-shell HOST=alice` and `make lab-shell HOST=bob` give a\n"
            "root shell (try `xl list`, `xl console web1`, `xenhelper status`); `make lab-down` ends them."
        )
    return (
        "Both hosts are switched off. For hosts to try things on: `KEEP=1 make demo`, or\n"
        "`python3 -m tests.lab up vm`, then `make lab-shell HOST=alice` and `make lab-shell HOST=bob`.\n"
        f"What was built for the hosts is in {image.CACHE}; delete it whole to get rid of it."
    )


def _keep_logs(lab: Lab, progress: Progress) -> None:
    """Collecting mustn't hide what failed."""
    if not any(host.is_on for host in lab.hosts):
        return
    try:
        lab.collect(LOGS)
        progress.say(f"the logs of both hosts are in {LOGS}")
    except Exception as error:
        progress.say(f"the hosts' logs can't be read: {error}")


def _story(lab: Lab, progress: Progress) -> None:
    _hosts(lab, progress)
    with demo_record.Recorder(lab, MINORS) as recorder:
        _create(lab, progress, recorder)
        _migrate(lab, progress, recorder, lab.alice, lab.bob)
        _migrate(lab, progress, recorder, lab.bob, lab.alice)
    with progress.step("What came of it"):
        _both_status(lab, progress)
        _integrity(lab, progress)
        product.assert_steady(lab, RESOURCES, lab.alice)
        assert product.runs_on(lab, "web1") == ["alice"]
        timeline = recorder.timeline(TITLE)
        save(timeline)
    show(timeline, progress)


def _hosts(lab: Lab, progress: Progress) -> None:
    """Both hosts on, with the product installed and paired."""
    with progress.step(f"The hosts' image: Debian {release.current().name}, Xen, DRBD, LVM"):
        image.build(lab.release)
    with progress.step("Both hosts on"):
        paired = layers.tag(lab, layers.LAYERS["paired"]) in lab.snapshots()
        if paired:
            print("they come from a snapshot of an earlier run, with this .deb installed and paired")
        else:
            lab.reset("booted")
    with progress.step("The .deb installed on both, and paired"):
        if not paired:
            print("both# apt-get install ./xenhelper.deb")
            print("alice# xenhelper setup bob --yes")
        lab.reset("paired")
        said = lab.both(lambda host: host.out("xenhelper --version | head -n1; command -v xl"))
        for host, version in zip(lab.hosts, said, strict=True):
            print(f"{host.name}: {', xl is '.join(version.splitlines())}")


def _create(lab: Lab, progress: Progress, recorder: demo_record.Recorder) -> None:
    with progress.step("Plain `xl create` with an untouched config"):
        scenario.write_web1(lab)
        progress.say("alice# cat /etc/xen/web1.cfg", "1")
        print(lab.alice.read("/etc/xen/web1.cfg").rstrip())
        _both_status(lab, progress)
        begin = time.monotonic()
        _type(lab.alice, progress, "xl create /etc/xen/web1.cfg", 300)
        recorder.commands.append(tl.Span(begin, time.monotonic(), "xl create"))
        with progress.busy("the guest boots, the first sync goes on"):
            Guest(lab.alice, "web1").wait_writing(disks=len(scenario.VOLUMES))
            scenario.wait_synced(lab)
        print("web1 runs and writes, both disks are in sync")
        found = [product.minor(lab.alice, name) for name in RESOURCES]
        assert found == MINORS, f"the disks got the minors {found}, not {MINORS}"
        _both_status(lab, progress)


def _migrate(
    lab: Lab, progress: Progress, recorder: demo_record.Recorder, source: Host, target: Host
) -> None:
    with progress.step(f"Plain `xl migrate`, {source.name} to {target.name}, the guest writing all the time"):
        guest = Guest(target, "web1")
        guest.on(source).wait_progress()
        command = f"xl migrate web1 {target.name}"
        begin = time.monotonic()
        _type(source, progress, command, product.MIGRATE_TIMEOUT)
        end = time.monotonic()
        recorder.commands.append(tl.Span(begin, end, command))
        with progress.busy(f"the guest goes on on {target.name}"):
            guest.wait_progress(120)
        recorder.moves.append(demo_record.Move(source, target, begin, end, time.monotonic()))
        _both_status(lab, progress)


def _both_status(lab: Lab, progress: Progress) -> None:
    """``xenhelper status`` as each host prints it."""
    answers = lab.both(lambda host: host.run("xenhelper status"))
    for host, answer in zip(lab.hosts, answers, strict=True):
        progress.say(f"{host.name}# xenhelper status", "1")
        progress.say("\n".join(f"  {line}" for line in answer.out.rstrip().splitlines()))


def _type(host: Host, progress: Progress, command: str, timeout: float) -> None:
    """A command as a person types it, with what it prints. Raises DemoError when it fails.

    What counts up to 100 % line by line is left out, but for its end.
    """
    progress.say(f"{host.name}# {command}", "1")
    begin = time.monotonic()
    last = ""
    with progress.busy(command), _remote(host, command, timeout) as process:
        assert process.stdout is not None
        for raw in process.stdout:
            for line in re.split(r"[\r\n]+", raw.decode(errors="replace").rstrip()):
                last = line or last
                if line and not re.search(r"\b\d{1,2}%", line):
                    progress.say(f"  {line}")
    if process.returncode:
        raise DemoError(f"{command!r} on {host.name} ended with {process.returncode}: {last}")
    progress.say(f"  (exit 0 after {time.monotonic() - begin:.0f} s)", "2")


@contextlib.contextmanager
def _remote(host: Host, command: str, timeout: float) -> Iterator[subprocess.Popen[bytes]]:
    """The command on the host, both outputs in one pipe; ended there after ``timeout`` seconds."""
    process = subprocess.Popen(
        host.ssh_command(f"timeout -k 3 {timeout:g} {command} 2>&1"),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield process
        process.wait(30)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _integrity(lab: Lab, progress: Progress) -> None:
    """What the guest says of its own disks. Raises AssertionError on a single wrong block."""
    guest = Guest(lab.alice, "web1")
    with progress.busy("the guest reads back all it knows"):
        verified = guest.verify()
    reports = guest.status()
    print("the guest's own report, since its start:")
    for disk, report in sorted(reports.items()):
        wrong, checked = verified[disk]
        print(
            f"  {disk}: {report.acked} blocks of 4 KiB written ({report.acked / 256:.0f} MiB), "
            f"{report.read} read back meanwhile: wrong {report.wrong}, failed writes {report.werr}, "
            f"failed reads {report.rerr}; all {checked} checked at the end: wrong {wrong}"
        )
    product.assert_no_wrong_block(guest, *lab.hosts)
    assert len(reports) == len(verified) == len(scenario.VOLUMES), "a disk gave no report"
    for disk, report in reports.items():
        bad = report.wrong + report.werr + report.rerr + verified[disk][0]
        assert bad == 0, f"{disk}: {report}, verified {verified[disk]}"


def save(timeline: tl.Timeline) -> None:
    """The drawing, and what it is made from."""
    SVG.parent.mkdir(exist_ok=True)
    SVG.write_text(demo_svg.draw(timeline))
    DATA.write_text(timeline.to_json())


def redraw() -> int:
    """``demo --redraw``: the drawing of the last run once more."""
    timeline = tl.from_json(DATA.read_text())
    save(timeline)
    show(timeline, on_stdout(STEPS))
    return 0


def show(timeline: tl.Timeline, progress: Progress) -> None:
    """The time line on the terminal, and its figures."""
    width = shutil.get_terminal_size((100, 24)).columns
    ink = progress.ink
    progress.say("\n".join(demo_bars.draw(timeline, width, ink)))
    progress.say(f"\n{demo_bars.legend(ink)}\n")
    progress.say("\n".join(figures(timeline)))
    progress.say(f"\nthe same as a picture: {SVG}", "1")


def figures(timeline: tl.Timeline) -> list[str]:
    """A line for each migration."""
    alice, bob = timeline.hosts
    lines = []
    for command in timeline.commands:
        if "migrate" not in command.value:
            continue
        until = command.end + 60

        def seconds(spans: list[tl.Span], start: float = command.start, end: float = until) -> float:
            return sum(s.end - s.start for s in spans if start <= s.start < end)

        both = seconds(tl.overlap(alice.role, bob.role, "Primary"))
        allowed = max(seconds([s for s in host.permission if s.value == "yes"]) for host in timeline.hosts)
        still = [
            later.start - one.end
            for one, later in zip(timeline.writes, timeline.writes[1:], strict=False)
            if command.start <= one.end < until
        ]
        lines.append(
            f"{command.value}: {command.end - command.start:.0f} s; the guest stood still "
            f"{f'{still[0]:.1f} s' if still else '(not seen)'}, both Primary {both:.1f} s, "
            f"two Primaries allowed {allowed:.1f} s"
        )
    return lines
