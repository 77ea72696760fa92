"""The near end: one kept ssh to a peer, shared by every local process through a socket.

A new ssh connection costs seconds that a hook doesn't have. The link connects again by
itself with back-off; what was on its way when a connection dropped fails at once.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable

from xenhelper import dead, log, names, paths, run
from xenhelper.errors import EXIT_USAGE, XenhelperError
from xenhelper.peer import messages, transport

# seconds
GREETING = 30.0
PING_EVERY = 10.0
SILENCE = 30.0
FIRST_RETRY = 1.0
LAST_RETRY = 20.0
MAX_REQUESTS = 128


class Request:
    """One local process's question; ``answer`` is set once."""

    def __init__(self, verb: str, args: object, timeout: float) -> None:
        self.verb = verb
        self.args = args
        self.deadline = time.monotonic() + timeout
        self.answer: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()

    def settle(self, answer: dict[str, object]) -> None:
        """Answer, unless the asker has given up."""
        if not self.answer.done():
            self.answer.set_result(answer)


class Link:
    """``command`` gives the ssh command (read anew for each connection)."""

    def __init__(self, peer: str, command: Callable[[], list[str]]) -> None:
        self.peer = peer
        self._command = command
        self._waiting: list[Request] = []
        self._flying: dict[int, Request] = {}
        self._number = 0
        self._input: asyncio.StreamWriter | None = None
        self._clock: float | None = None  # the server's monotonic time minus ours, at most
        self._leaving = False
        self._kick = asyncio.Event()
        self._said = ""

    async def serve(self) -> None:
        """For ever: the socket for local processes, the connection to the peer."""
        os.makedirs(paths.RUN, mode=0o700, exist_ok=True)
        path = messages.socket_path(self.peer)
        if os.path.exists(path):
            os.unlink(path)
        mask = os.umask(0o177)
        server = await asyncio.start_unix_server(self._client, path, limit=messages.MAX_BYTES, backlog=64)
        os.umask(mask)
        async with server:
            await self._keep_connected()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(10):
                line = await reader.readline()
            writer.write(messages.encode(await self._ask(line)))
            async with asyncio.timeout(10):
                await writer.drain()
        except (OSError, ValueError, XenhelperError):
            pass  # gone, too slow or too long: its socket closes
        finally:
            writer.close()

    async def _ask(self, line: bytes) -> dict[str, object]:
        asked = messages.decode(line)
        verb, timeout = asked.get("verb"), asked.get("timeout")
        if not isinstance(verb, str) or not isinstance(timeout, int | float):
            raise XenhelperError("not a request")
        if len(self._waiting) + len(self._flying) >= MAX_REQUESTS:
            return {"unreachable": "too many requests are under way"}
        timeout = max(0.0, min(float(timeout), messages.MAX_TIMEOUT))
        request = Request(verb, asked.get("args"), timeout)
        self._waiting.append(request)
        self._flush()
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(request.answer)
        except TimeoutError:
            return {"unreachable": f"no answer within {timeout:.1f} s"}
        finally:
            request.answer.cancel()
            if request in self._waiting:
                self._waiting.remove(request)

    def _flush(self) -> None:
        """Send what waits, or see that somebody connects."""
        if self._input is None or self._clock is None:
            self._kick.set()
            return
        for request in self._waiting:
            self._number += 1
            message = {
                "id": self._number,
                "verb": request.verb,
                "args": request.args,
                "deadline": request.deadline + self._clock,
            }
            try:
                data = messages.encode(message)
            except XenhelperError as error:
                request.settle({"error": error.what, "exit": error.exit_code})
                continue
            self._flying[self._number] = request
            self._input.write(data)
        self._waiting.clear()

    async def _keep_connected(self) -> None:
        pause = FIRST_RETRY
        while True:
            self._kick.clear()
            began = time.monotonic()
            reason = await self._connection()
            if reason:
                self._say(f"no connection to {self.peer}: {reason}", log.WARNING)
            for request in [*self._flying.values(), *self._waiting] if reason else []:
                request.settle({"unreachable": reason})
            self._flying.clear()
            pause = FIRST_RETRY if time.monotonic() - began > SILENCE else min(pause * 2, LAST_RETRY)
            if not reason:
                continue
            self._waiting.clear()
            await asyncio.sleep(FIRST_RETRY)
            try:
                async with asyncio.timeout(pause - FIRST_RETRY):
                    await self._kick.wait()
            except TimeoutError:
                pass

    async def _connection(self) -> str:
        """One connection from start to end. Why it ended; empty: connect again at once."""
        self._clock = None
        self._leaving = False
        try:
            argv = self._command()
            process = await asyncio.create_subprocess_exec(
                run.which(argv[0]),
                *argv[1:],
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=run.ENV,
                start_new_session=True,
                limit=messages.MAX_BYTES,
            )
        except (OSError, XenhelperError) as error:
            return str(error)
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        said = asyncio.create_task(_last_line(process.stderr))
        pings = asyncio.create_task(self._ping(process.stdin))
        try:
            return await self._read(process.stdout, process.stdin)
        except TimeoutError:
            return "it fell silent"
        except (ValueError, XenhelperError):
            return "it sent nonsense"
        except OSError as error:
            return str(error)
        except EOFError:
            try:
                async with asyncio.timeout(1):
                    return await asyncio.shield(said) or "the connection ended"
            except TimeoutError:
                return "the connection ended"
        finally:
            self._input = None
            pings.cancel()
            said.cancel()
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            await process.wait()

    async def _read(self, stdout: asyncio.StreamReader, stdin: asyncio.StreamWriter) -> str:
        async with asyncio.timeout(GREETING):
            await self._take(stdout)
        if self._clock is None:
            raise XenhelperError("no greeting")
        self._input = stdin
        self._say(f"connected to {self.peer}", log.INFO)
        self._flush()
        while not (self._leaving and not self._flying):
            async with asyncio.timeout(SILENCE):
                await self._take(stdout)
        return ""

    async def _take(self, stdout: asyncio.StreamReader) -> None:
        """One line from the server."""
        line = await stdout.readline()
        # root's .bashrc there may print something before our server starts
        while self._clock is None and line.endswith(b"\n") and not line.startswith(b"{"):
            line = await stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        answer = messages.decode(line)
        dead.heard(self.peer)
        number, theirs = answer.pop("id", None), answer.get("time")
        if number == 0 and isinstance(theirs, int | float):
            # what a full connection delayed would put the server's clock back: the best one counts
            self._clock = max(theirs - time.monotonic(), -1e18 if self._clock is None else self._clock)
        request = self._flying.pop(number, None) if isinstance(number, int) else None
        if answer.get("again"):
            # it was upgraded: it ends what it has begun, the rest goes to its successor
            self._leaving = True
            self._input = None
            if request is not None:
                self._waiting.append(request)
        elif request is not None:
            request.settle(answer)

    async def _ping(self, stdin: asyncio.StreamWriter) -> None:
        while True:
            await asyncio.sleep(PING_EVERY)
            stdin.write(messages.encode({"id": 0, "verb": "ping"}))

    def _say(self, text: str, priority: int) -> None:
        """To the journal, once until it changes."""
        if text != self._said:
            log.event("note", text, priority, peer=self.peer)
        self._said = text


async def _last_line(stderr: asyncio.StreamReader) -> str:
    """Read it all, keep the end."""
    last = b""
    while block := await stderr.read(4096):
        last = (last + block)[-1000:]
    lines = last.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""


def main(argv: list[str]) -> int:
    """`peer-link NAME`, by xenhelper-peer@NAME.service."""
    if len(argv) != 2 or not names.valid_host(argv[1]):
        print("usage: peer-link NAME", file=sys.stderr)
        return EXIT_USAGE
    peer = argv[1]

    async def serve() -> None:
        await Link(peer, lambda: transport.command_for(peer)).serve()

    asyncio.run(serve())
    return 0
