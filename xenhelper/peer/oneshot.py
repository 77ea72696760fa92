"""One request over an ssh of its own, for when no link runs here (setup, early boot)."""

import os
import select
import signal
import subprocess
import time

from xenhelper import run
from xenhelper.errors import PeerUnreachable, XenhelperError
from xenhelper.peer import messages, transport


def ask(
    peer: str, verb: str, args: dict[str, object], deadline: float, argv: list[str] | None = None
) -> dict[str, object]:
    """The server's answer, by ``deadline`` (monotonic). Raises PeerUnreachable."""
    command = argv or transport.command_for(peer)
    process = subprocess.Popen(
        [run.which(command[0]), *command[1:]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=run.ENV,
        start_new_session=True,
    )
    try:
        return _talk(process, verb, args, deadline)
    except TimeoutError:
        raise PeerUnreachable(f"{peer} gave no answer in time over the management path") from None
    except (OSError, EOFError):
        raise PeerUnreachable(f"{peer} can't be asked: {_reason(process)}") from None
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass


def _talk(
    process: "subprocess.Popen[bytes]", verb: str, args: dict[str, object], deadline: float
) -> dict[str, object]:
    assert process.stdin is not None and process.stdout is not None
    reader = _Lines(process.stdout.fileno(), deadline)
    line = reader.line()
    while not line.startswith(b"{"):  # what root's .bashrc there prints
        line = reader.line()
    try:
        theirs = messages.decode(line).get("time")
    except XenhelperError:
        raise EOFError from None
    now = time.monotonic()
    if not isinstance(theirs, int | float):
        raise EOFError
    request = {"id": 1, "verb": verb, "args": args, "deadline": theirs + (deadline - now)}
    process.stdin.write(messages.encode(request))
    process.stdin.flush()
    while True:
        answer = messages.decode(reader.line())
        if answer.pop("id", None) == 1:
            return answer


class _Lines:
    """Lines from a descriptor, by a deadline. EOFError at its end, TimeoutError after it."""

    def __init__(self, fd: int, deadline: float) -> None:
        self.fd = fd
        self.deadline = deadline
        self.buffer = b""

    def line(self) -> bytes:
        while b"\n" not in self.buffer:
            left = self.deadline - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                raise TimeoutError
            block = os.read(self.fd, 65536)
            if not block or len(self.buffer) > messages.MAX_BYTES:
                raise EOFError
            self.buffer += block
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line


def _reason(process: "subprocess.Popen[bytes]") -> str:
    """ssh's own last word."""
    assert process.stderr is not None
    try:
        process.wait(1)
        os.set_blocking(process.stderr.fileno(), False)
        said = (os.read(process.stderr.fileno(), 4000) or b"").decode("utf-8", "replace").strip()
    except (subprocess.TimeoutExpired, BlockingIOError):
        said = ""
    return said.splitlines()[-1] if said else "the connection ended"
