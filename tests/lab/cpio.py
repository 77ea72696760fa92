"""Write a newc cpio archive, the format of an initramfs."""

from __future__ import annotations

import stat


class Archive:
    """Collects entries; ``bytes(archive)`` is the finished file."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._inode = 0

    def _entry(self, name: str, mode: int, content: bytes, device: tuple[int, int]) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        fields = (
            self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(encoded), 0,
        )  # fmt: skip
        self._data += b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
        self._pad()
        self._data += content
        self._pad()

    def _pad(self) -> None:
        self._data += b"\0" * (-len(self._data) % 4)

    def directory(self, name: str) -> None:
        """An empty directory."""
        self._entry(name, stat.S_IFDIR | 0o755, b"", (0, 0))

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """A regular file."""
        self._entry(name, stat.S_IFREG | mode, content, (0, 0))

    def link(self, name: str, target: str) -> None:
        """A symbolic link."""
        self._entry(name, stat.S_IFLNK | 0o777, target.encode(), (0, 0))

    def character_device(self, name: str, major: int, minor: int) -> None:
        """A character device, such as /dev/console."""
        self._entry(name, stat.S_IFCHR | 0o600, b"", (major, minor))

    def __bytes__(self) -> bytes:
        end = Archive()
        end._data = bytearray(self._data)
        end._entry("TRAILER!!!", 0, b"", (0, 0))
        return bytes(end._data)
