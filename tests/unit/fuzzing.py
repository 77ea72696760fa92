"""What the fuzz tests share: how many inputs a run makes, and how many it made.

A few for each test in ``make unit``; ``make fuzz`` sets XENHELPER_FUZZ, takes new ones at
each run, and prints the sum.
"""

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

CAPTURED = Path(__file__).parent / "captured"
EACH = int(os.environ.get("XENHELPER_FUZZ", "40"))
RUN: Counter[str] = Counter()

fuzz = settings(
    max_examples=EACH,
    deadline=None,
    derandomize="XENHELPER_FUZZ" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def count(test: Callable[..., Any]) -> None:
    """One input more for ``test``."""
    RUN[test.__name__] += 1


# what JSON can say; keys that requests and plans have are common among the rest
_KEYS = ["vm", "id", "verb", "args", "deadline", "resource", "resources", "plan", "token", "name", "minor"]
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=40)
    | st.sampled_from(
        ["web1", "web1-xvda", "../etc/shadow", "a\nb=c", "\x1b[2J", "-rf", "/dev/vg0/web1", "\ud800"]
    )
)
JSON = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(_KEYS) | st.text(max_size=8), inner, max_size=5)
    ),
    max_leaves=12,
)
TEXT = st.text(st.characters(codec=None), max_size=60)


def captured(pattern: str) -> list[str]:
    """Texts that real tools printed."""
    found = [path.read_text(errors="replace") for path in sorted(CAPTURED.glob(pattern))]
    assert found, pattern
    return found


def broken(texts: list[str]) -> st.SearchStrategy[str]:
    """Real output with pieces cut, doubled, moved and replaced."""

    def damage(values: tuple[str, int, str, int]) -> str:
        text, seed, junk, cuts = values
        chance = random.Random(seed)  # noqa: S311
        for _ in range(cuts):
            a, b = sorted(chance.randrange(len(text) + 1) for _ in range(2))
            b = min(b, a + chance.choice((1, 3, 20, 400)))
            how = chance.randrange(5)
            piece = ("", junk, text[a:b] * 2, text[a:b][::-1], chance.choice(_BITS))[how]
            text = text[:a] + piece + text[b:]
        return text

    return st.tuples(st.sampled_from(texts), st.integers(0, 2**32), TEXT, st.integers(0, 6)).map(damage)


_BITS = [
    "²",
    "9" * 5000,
    "\0",
    "\r",
    "\u2028",
    '"',
    "{",
    "}",
    ":",
    "-1",
    "\x1b[31m",
    "name:",
    "minor:",
    "\n",
    "\t",
]
