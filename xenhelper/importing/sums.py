"""The chunks of one disk that are on this host, each by its SHA-256 as the old server gave it.

A list of 32 bytes a chunk under /var/lib/xenhelper/import; zeros: not here yet. An entry is
written only when its chunk is on the disk. One that a power cut tore fits no chunk, and the
comparison at the end finds that.
"""

from collections.abc import Iterable

from xenhelper import paths, statefile
from xenhelper.errors import XenhelperError

BYTES = 32
_NONE = bytes(BYTES)


def folder(vm: str) -> str:
    """Where everything that an import of ``vm`` keeps is."""
    return f"{paths.STATE}/import/{vm}"


class Sums:
    """The list of one disk of ``count`` chunks."""

    def __init__(self, path: str, count: int) -> None:
        """Raises XenhelperError when it can't be read."""
        self.path = path
        self.count = count
        try:
            with open(path, "rb") as file:
                data = file.read(count * BYTES)
        except FileNotFoundError:
            data = b""
        except OSError as error:
            raise XenhelperError(f"can't read {path}: {error.strerror}") from error
        self._known = bytearray(data.ljust(count * BYTES, b"\0"))

    def get(self, number: int) -> bytes:
        """A chunk's sum, empty when it isn't here."""
        found = bytes(self._known[number * BYTES : (number + 1) * BYTES])
        return b"" if found == _NONE else found

    def note(self, number: int, digest: bytes) -> None:
        """The chunk is here."""
        self._known[number * BYTES : (number + 1) * BYTES] = digest
        statefile.write_at(self.path, number * BYTES, digest)

    def drop(self, numbers: Iterable[int]) -> None:
        """These chunks aren't as they should be: they are copied anew."""
        for number in numbers:
            self.note(number, _NONE)

    def runs(self, here: bool) -> list[tuple[int, int]]:
        """(first, the one behind the last) of each row of chunks that are here, or aren't."""
        found: list[tuple[int, int]] = []
        for number in range(self.count):
            if bool(self.get(number)) is not here:
                continue
            if found and found[-1][1] == number:
                found[-1] = (found[-1][0], number + 1)
            else:
                found.append((number, number + 1))
        return found

    def missing(self) -> int:
        """How many chunks aren't here."""
        return sum(1 for number in range(self.count) if not self.get(number))
