"""What travels on the channel: one JSON object a line, bounded in size, checked in shape.

- request ``{"id", "verb", "args", "deadline"}``; ``deadline`` is in the server's own
  monotonic seconds, so that a request which sat in a cut connection is never carried
  out after its asker gave up;
- answer ``{"id", "ok"}``, ``{"id", "error", "do", "exit"}`` or ``{"id", "again"}``
  (the server makes way for a newer version of itself: ask on a new connection);
- greeting and pong ``{"id": 0, "time"}``.
"""

import json
import os

from xenhelper import paths
from xenhelper.errors import EXIT_FAILED, EXIT_REFUSED, PeerFailed, PeerUnreachable, XenhelperError

MAX_BYTES = 256 * 1024
MAX_TIMEOUT = 900.0


def encode(message: "dict[str, object]") -> bytes:
    """One line. Raises XenhelperError when it is too long."""
    try:
        text = json.dumps(message, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise XenhelperError(f"a message to the peer can't be JSON ({error})") from error
    line = text.encode() + b"\n"
    if len(line) > MAX_BYTES:
        raise XenhelperError(f"a message of {len(line)} bytes to or from the peer is too long")
    return line


def decode(line: bytes) -> "dict[str, object]":
    """The object of one line. Raises XenhelperError."""
    if len(line) > MAX_BYTES:
        raise XenhelperError("a message to or from the peer is too long")
    try:
        message = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise XenhelperError("a message to or from the peer isn't JSON") from error
    if not isinstance(message, dict):
        raise XenhelperError("a message to or from the peer isn't an object")
    return message


def _no_number(text: str) -> float:
    """NaN compares as neither early nor late, and isn't JSON anyway (RFC 8259)."""
    raise ValueError(text)


def check(verb: str, args: object, schema: "dict[str, object]") -> "dict[str, object]":
    """``args`` itself when it has just the schema's keys, each of its type.

    A type is ``str``, ``int``, ``float``, ``bool``, ``dict``, ``list`` or, for a list of
    them, ``[str]``; a key with ``?`` after it may be missing. Raises XenhelperError.
    """
    if not isinstance(args, dict):
        raise XenhelperError(f"{verb}: arguments aren't an object")
    wanted = {key.rstrip("?"): kind for key, kind in schema.items()}
    for key in args:
        if key not in wanted:
            raise XenhelperError(f"{verb}: unknown argument {str(key)[:40]!r}")
    for key, kind in wanted.items():
        if key not in args:
            if key + "?" in schema:
                continue
            raise XenhelperError(f"{verb}: argument {key!r} is missing")
        if not _fits(args[key], kind):
            raise XenhelperError(f"{verb}: argument {key!r} has the wrong type")
    return args


def _fits(value: object, kind: object) -> bool:
    if isinstance(kind, list):
        return isinstance(value, list) and all(_fits(item, kind[0]) for item in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    assert isinstance(kind, type)
    return isinstance(value, kind)


def result(peer: str, answer: "dict[str, object]") -> "dict[str, object]":
    """What the verb returned. Raises PeerFailed with the peer's own line, or
    PeerUnreachable when the link says there was no answer."""
    ok = answer.get("ok")
    if isinstance(ok, dict):
        return ok
    if "unreachable" in answer:
        raise PeerUnreachable(f"{peer} can't be asked: {answer['unreachable']}")
    status = answer.get("exit")
    raise PeerFailed(
        str(answer.get("error", f"{peer} gave an answer without sense"))[:2000],
        str(answer.get("do", ""))[:1000],
        status if isinstance(status, int) and EXIT_FAILED <= status <= EXIT_REFUSED else EXIT_FAILED,
    )


def socket_path(peer: str) -> str:
    """Where the link to ``peer`` listens (a name already checked by names.valid_host)."""
    return os.path.join(paths.RUN, f"peer-{peer}.sock")
