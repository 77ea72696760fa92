"""The old server, over root's own ssh. It has no xenhelper, and nothing is written there.

Each script is a constant of this file and needs what every Debian has: sh, coreutils, find,
grep, sed, LVM, util-linux, and xl where Xen runs. What differs from call to call is passed to
it as arguments, each checked by the caller and quoted for the login shell.
"""

import fcntl
import os
import select
import shlex
import tempfile
import time
from collections.abc import Iterator
from types import TracebackType

from xenhelper import run as programs
from xenhelper.errors import CommandFailed, Refused, UsageError, XenhelperError
from xenhelper.run import run
from xenhelper.setup.half import agent
from xenhelper.setup.remote import target

# seconds: one look; no byte of a copy for so long is the end of it
LOOK, STALL = 90.0, 60.0
_SIGKILL = 9
AGAIN = "the same command again goes on where it was"
_SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=10")
PATH = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"

# $@: paths. What it prints is read by look.parse
LOOK_AT = r"""
echo "host $(uname -n)"
echo "boot $(cat /proc/sys/kernel/random/boot_id)"
if grep -q control_d /proc/xen/capabilities 2>/dev/null; then
    if list=$(xl list 2>/dev/null); then
        printf '%s\n' "$list" | sed -n '2,$s/^/domain /p'
    else
        echo unlisted
    fi
fi
find /etc/xen/auto -mindepth 1 -maxdepth 1 2>/dev/null | sed 's|^.*/|auto |'
list_lvs() {
    lvs --noheadings --units b --nosuffix --separator '|' \
        -o "vg_name,lv_name,lv_size,lv_attr,lv_kernel_major,lv_kernel_minor$1" 2>/dev/null
}
# an LVM of before thin volumes doesn't know the last two
{ list_lvs ,pool_lv,data_percent || list_lvs ''; } | sed 's/^ */lv /'
n=0
for path do
    case $(stat -L -c %F -- "$path" 2>/dev/null) in
    'block special file')
        number=$(stat -L -c '%t %T' -- "$path")
        sys=/sys/dev/block/$((0x${number% *})):$((0x${number#* }))
        echo "block $n ${sys##*/} $(blockdev --getsize64 "$path")"
        number=$(cat $sys/diskseq 2>/dev/null || echo -)
        counts=$(cat $sys/queue/iostats 2>/dev/null || echo 0)
        echo "mark $n $number $counts $(cat $sys/stat)"
        ;;
    'regular file')
        echo "file $n $(stat -L -c %s -- "$path")"
        echo "mark $n $(stat -L -c '%d %i %s %y %z' -- "$path")"
        losetup -j "$path" 2>/dev/null | sed -n "1s/:.*//; 1s/^/user $n /p"
        ;;
    *) echo "gone $n" ;;
    esac
    for pid in $(find -L /proc/[0-9]*/fd -maxdepth 1 -samefile "$path" 2>/dev/null |
        sed 's|^/proc/||; s|/.*||'); do
        # find itself has it open, and is gone by now
        program=$(cat "/proc/$pid/comm" 2>/dev/null) && echo "user $n process $pid ($program)"
    done
    n=$((n + 1))
done
"""

# $1: a fixed string. The names of the files that hold it
NAMING = r"""find -L /etc/xen -maxdepth 1 -type f -size -200k -exec grep -lF -e "$1" -- {} + || true"""

# $1: a file
READ = r"""head -c 200000 -- "$1" """

# $1 path, $2 first chunk, $3 how many, $4 bytes of one, $5 iflag. The second dd takes one chunk
# in while the first reads the next
SEND = r"""
dd if="$1" bs="$4" iflag="$5" skip="$2" count="$3" status=none | dd bs="$4" iflag=fullblock status=none
"""

# $1 path, $2 first chunk, $3 the one behind the last, $4 bytes of one, $5 iflag
SUMS = r"""
i=$2
while [ $i -lt $3 ]; do
    dd if="$1" bs="$4" iflag="$5" skip=$i count=1 status=none | sha256sum
    i=$((i + 1))
done
"""


def command(script: str, *args: str) -> str:
    """What ssh hands to the login shell there, whatever shell that is."""
    words = ["env", PATH, "LC_ALL=C", "sh", "-c", script, "far", *args]
    return " ".join(shlex.quote(word) for word in words)


class Far:
    """The old server. ``host`` is its name as typed, for messages."""

    def __init__(self, typed: str) -> None:
        """Raises UsageError for what is no host."""
        self.destination, _ = target(typed)
        self.host = self.destination.partition("@")[2]

    def _argv(self, script: str, args: "tuple[str, ...]") -> "list[str]":
        return [*_SSH, "--", self.destination, command(script, *args)]

    def ask(self, script: str, *args: str, timeout: float = LOOK, do: str = AGAIN) -> str:
        """What the script prints. Raises XenhelperError."""
        try:
            result = run(self._argv(script, args), timeout=timeout, ok=None, env=agent())
        except CommandFailed as error:
            raise XenhelperError(
                f"{self.host} gave no answer within {timeout:g} s",
                "the same command again goes on where it was",
            ) from error
        if result.status:
            raise self.failure(result.status, result.stderr, do)
        return result.stdout

    def failure(self, status: "int | None", stderr: str, do: str = AGAIN) -> XenhelperError:
        """The error for what ssh, or the script there, ended with."""
        said = (stderr.strip().splitlines() or ["no reason given"])[-1].strip()
        if status == 255:
            return XenhelperError(
                f"no ssh to {self.destination}: {said}",
                f"see that `ssh {self.destination}` works from here, by key and without a question",
            )
        return XenhelperError(f"{self.host}: {said}", do)

    def stream(self, script: str, *args: str) -> "Stream":
        """Start the script, to read what it prints while it runs."""
        return Stream(self, self._argv(script, args))


class Stream:
    """A script's output as it comes. Every wait is bounded by :data:`STALL`."""

    def __init__(self, far: Far, argv: "list[str]") -> None:
        self._far = far
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the stream)
        self._pid, self._fd = programs.start(argv, agent(), self._errors.fileno())
        try:
            fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, 1 << 20)
        except OSError:
            pass  # a limit of this system: it goes on with a smaller pipe
        self._status: int | None = None

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", trace: "TracebackType | None"
    ) -> None:
        self.close()

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes. Raises XenhelperError when they don't come."""
        found = bytearray()
        while len(found) < size:
            block = self.some(size - len(found))
            if not block:
                raise self._ended()
            found += block
        return bytes(found)

    def some(self, size: int = 65536) -> bytes:
        """What is there, at most ``size`` bytes; none at the end. Raises XenhelperError."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        deadline = time.monotonic() + STALL
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise XenhelperError(
                    f"nothing came from {self._far.host} for {STALL:g} s",
                    "the same command again goes on where it was",
                )
            try:
                return os.read(self._fd, min(size, 1 << 20))
            except BlockingIOError:
                continue

    def lines(self) -> "Iterator[str]":
        """Each line as it comes. Raises XenhelperError when it doesn't end well."""
        rest = b""
        while block := self.some():
            *whole, rest = (rest + block).split(b"\n")
            for line in whole:
                yield line.decode("utf-8", "replace")
        if rest or self._wait(10.0):
            raise self._ended()

    def _ended(self) -> XenhelperError:
        """Why it came to its end too soon."""
        status = self._wait(10.0)
        self._errors.seek(0)
        said = self._errors.read(65536).decode("utf-8", "replace")
        if not said.strip() and status != 255:
            said = "the copy ended too soon"
        return self._far.failure(status, said)

    def _wait(self, seconds: float) -> "int | None":
        deadline = time.monotonic() + seconds
        while self._status is None and time.monotonic() < deadline:
            pid, raw = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(raw)
            else:
                time.sleep(0.02)
        return self._status

    def kill(self) -> None:
        """Whoever still reads comes to an end."""
        if self._status is None:
            try:
                os.killpg(self._pid, _SIGKILL)
            except ProcessLookupError:
                pass

    def close(self) -> None:
        """End it. Nobody may be reading any more."""
        if self._fd < 0:
            return
        self.kill()
        self._wait(10.0)
        os.close(self._fd)
        self._fd = -1
        self._errors.close()


def split(typed: str) -> "tuple[str, str]":
    """(host, path) of ``root@HOST:/path``; the path is '' where only the host is named.

    Raises UsageError.
    """
    host, colon, path = typed.partition(":")
    if colon:
        check_path(path)
    return host, path


def check_path(path: str) -> str:
    """``path`` itself, if it can stand in a config, in a script's argument and in a line of
    output. Raises UsageError."""
    odd = set(path) & set("\"'\\,*?[]")
    if (
        not path.startswith("/")
        or os.path.normpath(path) != path
        or path.startswith("//")
        or len(path) > 1000
    ):
        raise UsageError(
            f"{path[:120]!r} is no absolute path without detours", "as in root@old:/dev/vg0/web1"
        )
    if odd or not path.isascii() or not path.isprintable():
        raise UsageError(f"the path {path[:120]!r} holds characters that can't be kept", "rename it there")
    return path


def check_other(far_host: str, said: str, here: str) -> None:
    """Raises Refused when the old server is this very host."""
    if said == here:
        raise Refused(f"{far_host} is this host", "`xl create` replicates what is here already")
