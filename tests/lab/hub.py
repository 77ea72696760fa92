"""A switch for more than two hosts: what one host sends on a cable goes to the others.

``python3 hub.py FOLDER CABLE,… NUMBER,…`` serves until it is ended. With two hosts the cables are
direct, and no such process runs. A host that doesn't take a packet loses it, as on any switch.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

_BATCH = 64  # packets of one host before the next one's turn


class Port:
    """One host's end of one cable."""

    def __init__(self, folder: Path, cable: str, number: int) -> None:
        self.cable = cable
        self.number = number
        self.host = str(folder / f"{cable}-{number}.sock")
        path = folder / f"{cable}-{number}.hub"
        path.unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(str(path))


def forward(ports: list[Port], where: dict[bytes, Port], source: Port, packet: bytes) -> list[Port]:
    """The ports that an Ethernet frame goes out of; notes who sent it. Pure but for ``where``."""
    where[packet[6:12]] = source
    known = where.get(packet[:6])
    if known is not None:
        return [known] if known is not source else []
    return [port for port in ports if port is not source]


def serve(folder: Path, cables: list[str], numbers: list[int]) -> None:
    """For ever."""
    selector = selectors.DefaultSelector()
    for cable in cables:
        ports = [Port(folder, cable, number) for number in numbers]
        where: dict[bytes, Port] = {}
        for port in ports:
            selector.register(port.socket, selectors.EVENT_READ, (port, ports, where))
    while True:
        for key, _ in selector.select():
            port, ports, where = key.data
            for _ in range(_BATCH):
                try:
                    packet = port.socket.recv(70000)
                except BlockingIOError:
                    break
                for out in forward(ports, where, port, packet):
                    try:
                        out.socket.sendto(packet, out.host)
                    except OSError:
                        continue  # off, or its queue is full


def _pid(folder: Path) -> int | None:
    try:
        number = int((folder / "hub.pid").read_text())
        command = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return number if __file__.encode() in command else None


def start(folder: Path, cables: list[str], numbers: list[int]) -> None:
    """Have one run in the background; no second one."""
    if _pid(folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    words = [str(folder), ",".join(cables), ",".join(str(number) for number in numbers)]
    process = subprocess.Popen(
        [sys.executable, __file__, *words],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    (folder / "hub.pid").write_text(f"{process.pid}\n")


def stop(folder: Path) -> None:
    """End it."""
    number = _pid(folder)
    if number is None:
        return
    os.kill(number, signal.SIGTERM)
    end = time.monotonic() + 10
    while _alive(number) and time.monotonic() < end:
        time.sleep(0.02)


def _alive(number: int) -> bool:
    try:  # a child of this process is a zombie until it is waited for
        if os.waitpid(number, os.WNOHANG)[0] == number:
            return False
    except ChildProcessError:
        pass
    return Path(f"/proc/{number}").exists()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2].split(","), [int(word) for word in sys.argv[3].split(",")])
