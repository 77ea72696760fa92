"""The bytes of one disk: brought over in chunks, written where they differ from zeros, read
back and compared.

A fresh volume holds whatever lay there before, so nothing is left out for being zero in the
source: where it is, this host's volume is read, and written only if it isn't zero there. So a
thin volume, which reads as zeros where nothing was ever written, stays as sparse as its source.
"""

import hashlib
import mmap
import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

from xenhelper import paths
from xenhelper.errors import Refused, XenhelperError
from xenhelper.importing import far
from xenhelper.importing.plan import Item
from xenhelper.importing.sums import Sums

CHUNK = 16 << 20
# what is zero is looked for in pieces of this size, the smallest that a thin pool gives out
PIECE = 64 << 10
# chunks that are kept ready while one is written (dom0 may be small)
_AHEAD = 2
# bytes after each of which the limit is looked at
_STEP = 1 << 20
_ZEROS = bytes(PIECE)

Done = Callable[[int], None]


def count(item: Item) -> int:
    """How many chunks the disk has."""
    return -(-item.size // CHUNK)


def length(item: Item, number: int) -> int:
    """Bytes of a chunk: the last one may be shorter."""
    return min(CHUNK, item.size - number * CHUNK)


def open_volume(item: Item) -> int:
    """The volume here, opened for writing. Raises XenhelperError; Refused when somebody has it
    (O_EXCL: mounted, or beneath another device; open(2))."""
    try:
        return os.open(paths.ROOT + item.path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        raise Refused(
            f"{item.path} can't be opened for itself: {error.strerror}", "see who uses it"
        ) from error


def bring(old: far.Far, item: Item, known: Sums, limit: int, done: Done) -> None:
    """Copy every chunk that isn't here. ``limit`` in bytes a second, 0: none; ``done`` is told
    the bytes of each. Raises XenhelperError; what is here then stays, and is known."""
    fd = open_volume(item)
    try:
        # what whole extents add to it, before any chunk is known to be here
        _zero(fd, item.size, item.local - item.size)
        for first, behind in known.runs(here=False):
            args = item.source, str(first), str(behind - first), str(CHUNK), item.iflag
            numbers = range(first, behind)
            with (
                old.stream(far.SEND, *args) as stream,
                closing(_ahead(stream, item, numbers, limit)) as chunks,
            ):
                for number, data in chunks:
                    put(fd, number * CHUNK, data)
                    os.fdatasync(fd)
                    known.note(number, hashlib.sha256(data).digest())
                    done(len(data))
    except OSError as error:
        raise XenhelperError(f"{item.path} can't be written: {error.strerror}", "see `dmesg`") from error
    finally:
        os.close(fd)


def _ahead(
    stream: far.Stream, item: Item, numbers: range, limit: int
) -> Generator[tuple[int, bytes], None, None]:
    """Each chunk with its number, the next ones read meanwhile."""
    ready: queue.Queue[tuple[int, bytes] | BaseException] = queue.Queue(_AHEAD)
    over = threading.Event()

    def hand(what: "tuple[int, bytes] | BaseException") -> None:
        while not over.is_set():
            try:
                ready.put(what, timeout=0.2)
                return
            except queue.Full:
                continue

    def read() -> None:
        begun, got = time.monotonic(), 0
        try:
            for number in numbers:
                data = bytearray()
                while len(data) < length(item, number) and not over.is_set():
                    data += stream.read(min(_STEP, length(item, number) - len(data)))
                    early = begun + (got + len(data)) / limit - time.monotonic() if limit else 0.0
                    if early > 0:
                        over.wait(early)
                got += len(data)
                hand((number, bytes(data)))
        except BaseException as error:
            hand(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        for _ in numbers:
            found = ready.get()
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        over.set()
        stream.kill()  # or it would be waited for
        thread.join()


def put(fd: int, offset: int, data: bytes) -> None:
    """Write ``data``; what is zero in it only where the volume isn't zero already."""
    at = 0
    for size, zero in _pieces(data):
        if zero:
            _zero(fd, offset + at, size)
        else:
            _write(fd, offset + at, data[at : at + size])
        at += size


def _pieces(data: bytes) -> Iterator[tuple[int, bool]]:
    """(bytes, whether they are zero) of each row of pieces that are alike."""
    size, zero = 0, False
    for at in range(0, len(data), PIECE):
        piece = data[at : at + PIECE]
        empty = piece == _ZEROS[: len(piece)]
        if size and empty is not zero:
            yield size, zero
            size = 0
        size, zero = size + len(piece), empty
    if size:
        yield size, zero


def _zero(fd: int, offset: int, size: int) -> None:
    """Make these bytes zero; what is zero is only read."""
    while size > 0:
        piece = min(size, PIECE)
        if os.pread(fd, piece, offset) != _ZEROS[:piece]:
            _write(fd, offset, _ZEROS[:piece])
        offset, size = offset + piece, size - piece


def _write(fd: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def read_back(item: Item, known: Sums, done: Done) -> tuple[list[int], str]:
    """Read this host's volume from its disk: (the chunks that aren't as the old server gave
    them, SHA-256 of the whole disk). Raises XenhelperError."""
    fd = _open_direct(item.path)
    whole, wrong = hashlib.sha256(), []
    buffer = mmap.mmap(-1, CHUNK)  # page-aligned, as O_DIRECT wants it
    try:
        for number in range(count(item)):
            size = length(item, number)
            if _fill(fd, buffer, number * CHUNK) < size:
                raise XenhelperError(f"{item.path} can't be read to its end", "see `dmesg`")
            data = buffer[:size]
            whole.update(data)
            if hashlib.sha256(data).digest() != known.get(number):
                wrong.append(number)
            done(size)
        if not wrong and not _zero_behind(fd, buffer, item):
            wrong.append(count(item) - 1)
    except OSError as error:
        raise XenhelperError(f"{item.path} can't be read: {error.strerror}", "see `dmesg`") from error
    finally:
        buffer.close()
        os.close(fd)
    return wrong, whole.hexdigest()


def _open_direct(path: str) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        return os.open(paths.ROOT + path, flags | os.O_DIRECT)
    except OSError:
        return os.open(paths.ROOT + path, flags)


def _fill(fd: int, buffer: mmap.mmap, offset: int) -> int:
    """Read into the buffer as much as there is; how many bytes came."""
    got = 0
    while got < len(buffer):
        with memoryview(buffer) as view, view[got:] as rest:
            more = os.preadv(fd, [rest], offset + got)
        if more <= 0:
            break
        got += more
        if got % 4096:
            break  # the end: O_DIRECT goes by whole blocks
    return got


def _zero_behind(fd: int, buffer: mmap.mmap, item: Item) -> bool:
    """Whether what whole extents add to the disk is zero."""
    number, checked = item.size // CHUNK, item.size
    while checked < item.local:
        start = number * CHUNK
        end = min(start + CHUNK, item.local)
        if _fill(fd, buffer, start) < end - start:
            return False
        part = buffer[checked - start : end - start]
        if part != bytes(len(part)):
            return False
        checked, number = end, number + 1
    return True


def compare(old: far.Far, item: Item, known: Sums, done: Done) -> list[int]:
    """Have the old server sum up the chunks that are here: those that differ by now.

    Raises XenhelperError."""
    wrong = []
    for first, behind in known.runs(here=True):
        args = item.source, str(first), str(behind), str(CHUNK), item.iflag
        number = first
        with old.stream(far.SUMS, *args) as stream:
            for line in stream.lines():
                if number < behind and line.partition(" ")[0] != known.get(number).hex():
                    wrong.append(number)
                done(length(item, number) if number < behind else 0)
                number += 1
        if number != behind:
            raise XenhelperError(
                f"{old.host} summed up {number - first} chunks instead of {behind - first}",
                "the same command again goes on where it was",
            )
    return wrong
