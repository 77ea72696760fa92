"""Progress on a terminal: one live line below plain ones; plain lines alone elsewhere."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

from .demo_bars import Ink

_SPIN = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class Progress:
    """Steps of the demo. ``NO_COLOR`` and a stream that isn't a terminal are heeded."""

    def __init__(self, stream: TextIO, steps: int) -> None:
        self.stream = stream
        self.live = stream.isatty() and os.environ.get("TERM") != "dumb"
        unicode = (getattr(stream, "encoding", "") or "").lower().replace("-", "") == "utf8"
        self.ink = Ink(unicode, self.live and not os.environ.get("NO_COLOR"))
        self.steps = steps
        self.step_number = 0
        self.begun = time.monotonic()
        self._lock = threading.Lock()
        self._what = ""
        self._since = 0.0
        self._turn = 0

    def say(self, text: str = "", colour: str = "") -> None:
        """One or more lines, above the live one."""
        with self._lock:
            self._wipe()
            for line in text.split("\n"):
                self.stream.write(self.ink.paint(self._fit(line), colour) + "\n")
            self.stream.flush()

    def _fit(self, line: str) -> str:
        """A line the stream can hold."""
        encoding = getattr(self.stream, "encoding", None) or "ascii"
        return line.encode(encoding, "replace").decode(encoding)

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """A headed step; what is printed inside it comes indented below its head."""
        self.step_number += 1
        self.say(f"\n[{self.step_number}/{self.steps}] {what}", "1")
        begin = time.monotonic()
        with self.busy(what), contextlib.redirect_stdout(_Lines(self)):
            yield
        self.say(f"  done in {time.monotonic() - begin:.0f} s", "32")

    @contextlib.contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Something that takes its time, on the live line."""
        if not self.live or self._what:
            before, self._what = self._what, what
            try:
                yield
            finally:
                self._what = before
            return
        self._what, self._since = what, time.monotonic()
        over = threading.Event()
        thread = threading.Thread(target=self._turn_until, args=(over,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._what = ""
            with self._lock:
                self._wipe()
                self.stream.flush()

    def _turn_until(self, over: threading.Event) -> None:
        while not over.wait(0.2):
            with self._lock:
                self._wipe()
                self._turn += 1
                sign = _SPIN[self._turn % len(_SPIN)] if self.ink.unicode else "|/-\\"[self._turn % 4]
                line = f"  {sign} {self._what}  {time.monotonic() - self._since:.0f} s"
                self.stream.write(self._fit(line)[: shutil.get_terminal_size().columns - 1])
                self.stream.flush()

    def _wipe(self) -> None:
        if self.live:
            self.stream.write("\r\x1b[K")


class _Lines(io.TextIOBase):
    """Stands in for stdout during a step: whole lines go through ``Progress.say``."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._progress.say(f"  {line}")
        return len(text)


def on_stdout(steps: int) -> Progress:
    """For the real stdout, whoever redirects ``sys.stdout`` later."""
    return Progress(sys.stdout, steps)
