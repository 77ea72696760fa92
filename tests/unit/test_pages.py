"""What the pages tell people to type is what the program takes, and what the lab types."""

import re
import shlex
from pathlib import Path

import pytest

from xenhelper.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LAB = "".join(path.read_text() for path in sorted((ROOT / "tests/lab").glob("*.py")))
# what these pages show in a box, a test on two hosts types
RUN = ("README.md", "operations.md")
# as typed at a shell, and what comes before it in a transcript
_TYPED = re.compile(r"^(?:\w+# )?((?:xenhelper|xl|apt|make|shutdown) .*?)(?:\s{2,}#.*|\s+\S*>.*)?$", re.M)


def boxes(text: str) -> list[str]:
    """Every command in a box of a page."""
    inside = re.findall(r"^```\n(.*?)^```", text, re.M | re.S)
    return [line for box in inside for line in _TYPED.findall(box)]


def named(text: str) -> list[str]:
    """Every xenhelper command in a page's sentences, but for those that are cut short with …"""
    prose = re.sub(r"^```\n.*?^```", "", text, flags=re.M | re.S)
    found = re.findall(r"`(xenhelper [a-z][^`\n]*)`", prose)
    return [line for line in found if not re.search(r"[…\[|<]|\.\.\.", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_each_command_is_one(page: Path) -> None:
    text = page.read_text()
    for line in [*boxes(text), *named(text)]:
        words = shlex.split(line, comments=True)
        words = words[: words.index("|")] if "|" in words else words
        if words[0] != "xenhelper" or words[1] == "--version":
            continue
        assert words[1] in main.commands(), line
        if not any(word.isupper() and len(word) == 1 for word in words):
            _parses(words, line)


def _parses(words: list[str], line: str) -> None:
    try:
        main.parser_of(words[1]).parse_args(words[2:])
    except SystemExit:
        # a mere name of a command, which needs arguments, is no mistake
        assert len(words) == 2, f"not taken: {line}"


@pytest.mark.parametrize("name", RUN)
def test_each_command_in_a_box_is_typed_in_the_lab(name: str) -> None:
    """By a test with the same command and at least the same options."""
    page = next(page for page in PAGES if page.name == name)
    found = boxes(page.read_text())
    assert found
    for line in found:
        words = shlex.split(line, comments=True)
        if words[0] in ("make", "shutdown"):
            continue  # make: what the lab itself is started with; shutdown: Host.shutdown
        start = r"apt(?:-get)?\b.* " if words[0] == "apt" else f"{words[0]} "
        uses = re.findall(rf"{start}{re.escape(words[1])}\b.*", LAB)
        wanted = {word for word in words[2:] if word.startswith("--")}
        assert any(wanted <= set(re.findall(r"--[\w-]+", use)) for use in uses), line
