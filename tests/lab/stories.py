"""What the docs show in a box was typed and printed here: one file a story in build/stories.

``mk/stories`` puts them into the page. A line of output that differs at each run (times,
percentages) is kept as this run had it.
"""

from __future__ import annotations

from pathlib import Path

from .host import Host, Result

FOLDER = Path("build/stories")


class Story:
    """A transcript: ``host# command`` and what it printed, in order."""

    def __init__(self, name: str) -> None:
        self.path = FOLDER / f"{name}.txt"
        self.lines: list[str] = []

    def type(self, host: Host, command: str, timeout: float = 120, check: bool = True) -> Result:
        """Run it as an administrator would and keep what is seen."""
        result = host.run(f"{command} 2>&1", timeout=timeout, check=check)
        self.lines.append(f"{host.name}# {command}")
        self.lines += [line.rstrip() for line in result.out.rstrip().splitlines()]
        return result

    def note(self, text: str) -> None:
        """Something that happened beside what was typed."""
        self.lines.append(f"({text})")

    def end(self) -> None:
        """All of it was as it should be: keep it."""
        FOLDER.mkdir(parents=True, exist_ok=True)
        self.path.write_text("\n".join(self.lines) + "\n")
