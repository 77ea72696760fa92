"""How far long work has come: a bar on a terminal, elsewhere a line each tenth."""

import os
import sys
import time
from collections import deque
from typing import TextIO

from xenhelper import units

_WIDTH, _EVERY, _RECENT = 24, 0.25, 15.0


class Progress:
    """``label`` and how much of ``total`` bytes is done; :meth:`end` leaves the terminal clean.
    ``stream``: where to, standard output if None."""

    def __init__(self, label: str, total: int, done: int = 0, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self.label, self.total, self.done = label, max(1, total), done
        self._live = self._stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._shown = 0.0
        self._tenth = 10 * done // self.total
        self._past = deque([(time.monotonic(), done)])

    def add(self, octets: int) -> None:
        """So many more bytes are done."""
        now = time.monotonic()
        self.done += octets
        self._past.append((now, self.done))
        while len(self._past) > 2 and now - self._past[0][0] > _RECENT:
            self._past.popleft()
        if not self._live:
            tenth = 10 * self.done // self.total
            if tenth > self._tenth:
                self._tenth = tenth
                print(
                    f"{self.label}: {10 * tenth} % of {units.size(self.total)}", file=self._stream, flush=True
                )
        elif now - self._shown >= _EVERY or self.done >= self.total:
            self._shown = now
            self._stream.write(f"\r{self.line()}\x1b[K")
            self._stream.flush()

    def line(self) -> str:
        """What stands on the terminal."""
        share = min(1.0, self.done / self.total)
        full = int(share * _WIDTH)
        (then, before), (now, after) = self._past[0], self._past[-1]
        speed = (after - before) / (now - then) if now > then else 0.0
        text = f"{self.label} {'#' * full}{'.' * (_WIDTH - full)} {100 * share:3.0f} %"
        text += f" of {units.size(self.total)}"
        if speed > 0:
            text += f", {speed / units.MIB:.0f} MiB/s, {_left((self.total - self.done) / speed)}"
        return text

    def end(self) -> None:
        """It is over, well or not: what is printed next starts on a line of its own."""
        if self._live and self._shown:
            self._stream.write("\n")
            self._stream.flush()
            self._shown = 0.0


def _left(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h left"
    return f"{seconds / 60:.0f} min left" if seconds >= 90 else f"{max(0.0, seconds):.0f} s left"
