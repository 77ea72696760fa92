"""Waiting with a bound."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class TimedOut(Exception):
    """A bounded wait ended; the message says what for and what was last seen."""


def wait_until(
    look: Callable[[], T],
    timeout: float,
    what: str,
    every: float = 0.3,
) -> T:
    """Call ``look`` until it returns something true, and return that.

    Between two looks it waits ``every`` seconds, and at least twice as long as a look
    takes: on a slow host the looking mustn't take the processor of what is waited for.
    Raises TimedOut after ``timeout`` seconds of the harness's clock. What
    ``look`` raises passes through: looking must work, only the state may lack.
    """
    end = time.monotonic() + timeout
    while True:
        began = time.monotonic()
        seen = look()
        if seen:
            return seen
        if time.monotonic() > end:
            raise TimedOut(f"waited {timeout:g} s for {what}; last seen: {seen!r}")
        time.sleep(max(every, 2 * (time.monotonic() - began)))
