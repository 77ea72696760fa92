"""One Xen host as a test sees it: run commands, move files, power."""

from __future__ import annotations

import shlex
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import qemu
from .wait import wait_until

DEFAULT_TIMEOUT = 120.0
BOOT_TIMEOUT = 420.0


@dataclass(frozen=True)
class Result:
    """How a command ended on a host."""

    command: str
    status: int
    out: str
    err: str

    @property
    def ok(self) -> bool:
        """Whether it exited 0."""
        return self.status == 0


class CommandFailed(Exception):
    """A command on a host exited with something other than 0."""

    def __init__(self, host: str, result: Result) -> None:
        self.result = result
        super().__init__(
            f"{host}: {result.command!r} exited {result.status}\n"
            f"stdout: {result.out.strip()}\nstderr: {result.err.strip()}"
        )


class CommandTimedOut(Exception):
    """A command on a host didn't end within its bound."""


class Host:
    """One of the two hosts. Keeps one ssh connection and multiplexes on it."""

    def __init__(self, machine: qemu.Machine) -> None:
        self.machine = machine
        self.name = machine.name

    def __repr__(self) -> str:
        return f"Host({self.name})"

    @property
    def _ssh_options(self) -> list[str]:
        image = self.machine.image
        options = {
            "ControlPath": self.machine.folder / "ssh.sock",
            "ControlMaster": "auto",
            "ControlPersist": "yes",
            "UserKnownHostsFile": image / "known_hosts",
            "StrictHostKeyChecking": "yes",
            "IdentitiesOnly": "yes",
            "ConnectTimeout": "60",
            "ServerAliveInterval": "20",
            "LogLevel": "ERROR",
            "BatchMode": "yes",
        }
        arguments = ["-F", "none", "-i", str(image / "id_ed25519")]
        for key, value in options.items():
            arguments += ["-o", f"{key}={value}"]
        return arguments

    def ssh_command(self, *command: str, tty: bool = False) -> list[str]:
        """The ssh command line, for an interactive shell or a process of one's own."""
        port = ["-p", str(self.machine.ssh_port)]
        terminal = ["-t"] if tty else []
        return ["ssh", *self._ssh_options, *port, *terminal, "root@127.0.0.1", *command]

    def run(
        self,
        command: str,
        timeout: float = DEFAULT_TIMEOUT,
        check: bool = True,
        stdin: str | bytes = "",
    ) -> Result:
        """Run a shell command line on the host.

        Raises CommandFailed on a status other than 0 (unless ``check`` is
        false) and CommandTimedOut after ``timeout`` seconds; the command is
        killed on the host too.
        """
        remote = f"timeout -k 3 {timeout + 2:g} sh -c {shlex.quote(command)}"
        data = stdin.encode() if isinstance(stdin, str) else stdin
        try:
            done = subprocess.run(self.ssh_command(remote), input=data, capture_output=True, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise CommandTimedOut(f"{self.name}: {command!r} ran over {timeout:g} s") from error
        result = Result(
            command, done.returncode, done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
        )  # fmt: skip
        if check and not result.ok:
            raise CommandFailed(self.name, result)
        return result

    def out(self, command: str, timeout: float = DEFAULT_TIMEOUT) -> str:
        """A command's stdout without the white space around it; it must exit 0."""
        return self.run(command, timeout).out.strip()

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Start a command and go on; its output is piped. The caller waits for it."""
        return subprocess.Popen(
            self.ssh_command(command), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def put(self, source: Path, target: str, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Copy a file to the host."""
        self.run(f"cat > {shlex.quote(target)}", timeout, stdin=source.read_bytes())

    def write(self, target: str, text: str) -> None:
        """Write a text file on the host."""
        self.run(f"cat > {shlex.quote(target)}", stdin=text)

    def read(self, path: str) -> str:
        """A text file of the host; empty where there is none."""
        return self.run(f"cat -- {shlex.quote(path)} 2>/dev/null", check=False).out

    def get(self, source: str, target: Path, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Copy a file from the host."""
        done = subprocess.run(
            self.ssh_command(f"cat -- {shlex.quote(source)}"),
            stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout,
        )  # fmt: skip
        if done.returncode:
            raise CommandFailed(self.name, Result(source, done.returncode, "", str(done.stderr)))
        target.write_bytes(done.stdout)

    def disconnect(self) -> None:
        """Give up the kept connection (it doesn't outlive a restored snapshot)."""
        control = self.machine.folder / "ssh.sock"
        if control.exists():
            subprocess.run(self.ssh_command()[:-1] + ["-O", "exit", "root@127.0.0.1"], capture_output=True)
            control.unlink(missing_ok=True)

    @property
    def is_on(self) -> bool:
        """Whether its QEMU runs."""
        return qemu.pid(self.machine) is not None

    def power_off(self) -> None:
        """Kill its QEMU: what a power failure does."""
        qemu.kill(self.machine)
        self.disconnect()

    def power_on(self, timeout: float = BOOT_TIMEOUT, wait: bool = True) -> None:
        """Boot from disk, and wait until ssh answers and booting is over.

        Now and then the emulated disk never answers a read of the initramfs: then the
        power is cut once more. Nothing of the product runs before the root file system.
        """
        self.disconnect()
        begun = self.machine.serial_log.stat().st_size if self.machine.serial_log.exists() else 0
        if not self.is_on:
            qemu.start(self.machine)
        if not wait:
            return
        wait_until(lambda: self._greets() or self._no_root(begun), timeout, f"ssh on {self.name}", every=0.5)
        if self._no_root(begun):
            print(f"lab: {self.name}'s disk doesn't answer; switching it off and on again")
            self.power_off()
            qemu.start(self.machine)
        self.wait_for_boot(timeout)

    def _no_root(self, begun: int) -> bool:
        """Whether this boot hangs in mounting its root: by the serial log since ``begun``."""
        with self.machine.serial_log.open("rb") as serial:
            serial.seek(begun)
            text = serial.read()
        return b"INFO: task mount:" in text and b"systemd[1]" not in text

    def shutdown(self, timeout: float = 300) -> None:
        """Shut down cleanly and wait until the machine is off."""
        self.run("systemctl poweroff --no-block", check=False)
        self.disconnect()
        wait_until(lambda: self._went_down(), timeout, f"{self.name} to power off")

    def _went_down(self) -> bool:
        return not self.is_on

    def wait_for_ssh(self, timeout: float) -> None:
        """Wait until sshd answers; raises wait.TimedOut."""
        wait_until(self._greets, timeout, f"ssh on {self.name}", every=0.5)

    def _greets(self) -> bool:
        if not self.is_on:
            raise qemu.QemuError(f"{self.name} went off; see {self.machine.serial_log}")
        try:
            address = ("127.0.0.1", self.machine.ssh_port)
            with socket.create_connection(address, timeout=5) as sock:
                return sock.recv(4) == b"SSH-"
        except OSError:
            return False

    def wait_for_boot(self, timeout: float = BOOT_TIMEOUT) -> None:
        """Wait until systemd says that booting is over."""
        self.wait_for_ssh(timeout)
        state = self.run("systemctl is-system-running --wait", timeout, check=False).out.strip()
        if state not in ("running", "degraded"):
            raise qemu.QemuError(f"{self.name} booted into state {state!r}")
