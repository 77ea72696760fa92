"""One host's QEMU process: start, stop, kill, monitor, snapshots of its disks.

Stateless: everything is found again from the host's directory, so that a later
process can go on with a running lab.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

CABLES = ("link", "path")
DISKS = {"root": None, "vg0": "8G", "vg1": "64M"}
XEN_OPTIONS = (
    "dom0_mem=768M,max:768M dom0_max_vcpus=1 console=com1 com1=115200,8n1 "
    "loglvl=warning noreboot sched=credit2"
)
# See README.md, "Why these QEMU options".
QUEUE_LENGTH = Path("/proc/sys/net/unix/max_dgram_qlen")
QUEUED_PACKETS = 2048
CPU = "Opteron_G3,+svm,+npt,-rdtscp"


class QemuError(Exception):
    """QEMU refused a command, didn't start, or isn't there."""


@dataclass(frozen=True)
class Machine:
    """What one host is made of; ``folder`` holds its disks and sockets."""

    name: str
    number: int  # from 1 on, the last byte of its addresses
    folder: Path
    image: Path
    ssh_port: int
    xen_options: str = XEN_OPTIONS
    memory_mib: int = 2048
    hub: bool = False  # its cables lead to a switch (hub.py), not to the one other host

    def disk(self, name: str) -> Path:
        """The qcow2 file of one of ``DISKS``."""
        return self.folder / f"{name}.qcow2"

    @property
    def serial_log(self) -> Path:
        """Everything Xen and dom0's kernel said since the disks were made."""
        return self.folder / "serial.log"

    def _cable(self, cable: str, number: int) -> str:
        return str(self.folder.parent / f"{cable}-{number}.sock")

    def _networks(self) -> list[str]:
        options: list[str] = []
        for index, cable in enumerate(CABLES):
            other = self._cable(cable, 3 - self.number)
            if self.hub:
                other = self._cable(cable, self.number).replace(".sock", ".hub")
            options += [
                "-netdev",
                f"dgram,id={cable},local.type=unix,local.path={self._cable(cable, self.number)},"
                f"remote.type=unix,remote.path={other}",
                "-device",
                f"virtio-net-pci,netdev={cable},id=nic-{cable},romfile=,"
                f"mac=52:54:00:00:0{self.number}:0{index}",
            ]
        return [
            *options,
            "-netdev",
            f"user,id=mgmt,restrict=on,hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22",
            "-device",
            f"virtio-net-pci,netdev=mgmt,romfile=,mac=52:54:00:00:0{self.number}:02",
        ]

    def command(self) -> list[str]:
        """QEMU's command line."""
        dom0 = (
            "root=/dev/vda rw console=hvc0 net.ifnames=0 mitigations=off "
            f"systemd.default_device_timeout_sec=300 systemd.hostname={self.name}"
        )
        disks: list[str] = []
        for disk in DISKS:
            disks += ["-drive", f"file={self.disk(disk)},if=none,id={disk},cache=unsafe"]
            disks += ["-device", f"virtio-blk-pci,drive={disk},serial={disk}"]
        return [
            "qemu-system-x86_64", "-name", f"lab-{self.name}", "-nodefaults", "-no-user-config",
            "-machine", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", CPU,
            "-smp", "1", "-m", str(self.memory_mib), "-display", "none", "-no-reboot",
            "-kernel", str(self.image / "xen"), "-append", self.xen_options,
            "-initrd", f"{self.image}/vmlinuz {dom0},{self.image}/initrd.img",
            "-chardev", f"file,id=serial,path={self.serial_log},append=on",
            "-serial", "chardev:serial",
            "-qmp", f"unix:{self.folder}/qmp.sock,server=on,wait=off",
            "-pidfile", str(self.folder / "qemu.pid"), "-daemonize",
            *disks, *self._networks(),
        ]  # fmt: skip


def make_disks(machine: Machine, base: Path | None = None) -> None:
    """New disks: an overlay on the image (or on ``base``), and empty ones for the volume groups."""
    machine.folder.mkdir(parents=True, exist_ok=True)
    for name, size in DISKS.items():
        path = machine.disk(name)
        path.unlink(missing_ok=True)
        extra = (
            [str(path), size] if size
            else ["-b", str(base or machine.image / "base.img"), "-F", "raw", str(path)]
        )  # fmt: skip
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *extra], check=True)


def pid(machine: Machine) -> int | None:
    """The running QEMU's process id."""
    try:
        number = int((machine.folder / "qemu.pid").read_text())
        command = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return None
    ours = f"lab-{machine.name}".encode() in command
    return number if ours and state not in "ZX" else None


def running_elsewhere(folder: Path) -> set[str]:
    """The folders of other labs' running QEMUs on this machine."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if command[0].endswith("qemu-system-x86_64") and {"lab-alice", "lab-bob", "lab-carol"} & {*command}:
            pid_file = Path(command[command.index("-pidfile") + 1])
            if pid_file.parent.parent != folder:
                found.add(str(pid_file.parent.parent))
    return found


def lengthen_queues() -> None:
    """Of the sockets between the hosts that are made from now on."""
    if int(QUEUE_LENGTH.read_text()) < QUEUED_PACKETS:
        QUEUE_LENGTH.write_text(f"{QUEUED_PACKETS}\n")


def start(machine: Machine, snapshot: str | None = None) -> None:
    """Start QEMU; with a snapshot it is loaded and the host stays stopped."""
    if pid(machine):
        raise QemuError(f"{machine.name} is running")
    lengthen_queues()
    command = machine.command()
    if snapshot:
        command += ["-S", "-loadvm", snapshot]
    for again in (bool(snapshot), False):
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
        )
        # once in a hundred loads QEMU says just "Invalid argument", and loads the same one next
        if not (again and "Failed to load snapshot" in result.stderr):
            break
        print(f"{machine.name}: {result.stderr.strip().splitlines()[-1]}: once more", flush=True)
    if "Could not set up host forwarding" in result.stderr:
        raise QemuError(
            f"{machine.name}: port {machine.ssh_port} of 127.0.0.1 is in use; "
            "`LAB_SSH_PORT=22900 make …` takes others"
        )
    if result.returncode:
        raise QemuError(f"{machine.name}: {result.stderr.strip()}")


def kill(machine: Machine) -> None:
    """Cut the power. Its disks keep what they had acknowledged, as disks do that survive
    a power loss: QEMU is stopped first, which writes its own notes of where a snapshot's
    clusters went. Without that, all since the last flush would be gone, minutes of it,
    which no disk's cache does."""
    number = pid(machine)
    if not number:
        return
    try:
        qmp(machine, "stop", timeout=10)
    except (QemuError, OSError):
        pass
    os.kill(number, signal.SIGKILL)
    end = time.monotonic() + 30
    while pid(machine):
        if time.monotonic() > end:
            raise QemuError(f"{machine.name}: process {number} doesn't end")
        time.sleep(0.02)


def stop(machine: Machine) -> None:
    """End QEMU in good order: its disks are left tidy. The host isn't asked."""
    if not pid(machine):
        return
    try:
        qmp(machine, "quit", timeout=10)
    except (QemuError, OSError):
        pass  # it may close the monitor before it answers
    end = time.monotonic() + 15
    while pid(machine) and time.monotonic() < end:
        time.sleep(0.02)
    kill(machine)


def qmp(machine: Machine, execute: str, timeout: float = 120, **arguments: object) -> object:
    """One QMP command on a connection of its own."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(timeout)
        try:
            sock.connect(str(machine.folder / "qmp.sock"))
        except OSError as error:
            raise QemuError(f"{machine.name} is off ({error})") from error
        with sock.makefile("rwb") as stream:
            stream.readline()
            for request in ({"execute": "qmp_capabilities"},
                            {"execute": execute, "arguments": arguments}):  # fmt: skip
                stream.write(json.dumps(request).encode() + b"\n")
                stream.flush()
                answer: dict[str, object] = {"event": ""}
                while "event" in answer:
                    line = stream.readline()
                    if not line:
                        raise QemuError(f"{machine.name}: QEMU closed the monitor")
                    answer = json.loads(line)
                if "error" in answer:
                    raise QemuError(f"{machine.name}: {execute}: {answer['error']}")
    return answer["return"]


def monitor(machine: Machine, line: str, timeout: float = 300) -> str:
    """One command of QEMU's human monitor; its answer."""
    options = {"command-line": line}
    return str(qmp(machine, "human-monitor-command", timeout, **options))


def snapshots(machine: Machine) -> list[str]:
    """The snapshots on the host's disks; works only while the host is off."""
    path = machine.disk("root")
    if not path.exists():
        return []
    result = subprocess.run(
        ["qemu-img", "snapshot", "-U", "-l", str(path)], capture_output=True, text=True, check=True
    )
    return [line.split()[1] for line in result.stdout.splitlines()[2:]]


def in_guest(machine: Machine) -> bool:
    """Whether the (stopped) host's processor was running a PVH or HVM guest just then.

    QEMU refuses to load a snapshot of that ("vCPU set in guest-mode inconsistent with
    migrated kernel nested state"). Xen's interrupt table lies where Xen alone lives,
    0xffff8000'00000000 to 0xffff87ff'ffffffff; a guest has its own elsewhere.
    """
    registers = monitor(machine, "info registers")
    table = re.search(r"^IDT= *([0-9a-f]+)", registers, re.MULTILINE)
    if not table:
        raise QemuError(f"{machine.name}: no IDT in QEMU's registers")
    return not 0xFFFF800000000000 <= int(table[1], 16) <= 0xFFFF87FFFFFFFFFF


def save(machine: Machine, snapshot: str) -> None:
    """Save the (stopped) host. Raises QemuError."""
    answer = monitor(machine, f"savevm {snapshot}")
    if answer.strip():
        raise QemuError(f"{machine.name}: savevm {snapshot}: {answer.strip()}")
