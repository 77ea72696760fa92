"""A real server process with verbs of our own, for the tests of the channel."""

import os
import sys
import time
from typing import Any

from xenhelper.errors import Refused


def serve_echo(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    print("a verb that prints must not break the channel")
    return {"peer": peer, "text": args["text"], "pid": os.getpid()}


def serve_sleep(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    time.sleep(args["seconds"])
    if "then_write" in args:
        with open(args["then_write"], "w", encoding="ascii") as file:
            file.write("done")
    return {"slept": args["seconds"]}


def serve_refuse(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    raise Refused("web1 runs here", "destroy it first")


def serve_bug(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    return {"x": 1 // 0}


def serve_big(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    return {"x": "y" * args["size"]}


def serve_die(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    os._exit(1)


def serve_touch(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """As if the package were upgraded under the server."""
    os.utime(os.environ["FAKE_CODE"])
    return {}


VERBS: dict[str, tuple[str, str, dict[str, object]]] = {
    "echo": (__name__, "serve_echo", {"text": str}),
    "sleep": (__name__, "serve_sleep", {"seconds": float, "then_write?": str}),
    "refuse": (__name__, "serve_refuse", {}),
    "bug": (__name__, "serve_bug", {}),
    "big": (__name__, "serve_big", {"size": int}),
    "die": (__name__, "serve_die", {}),
    "touch": (__name__, "serve_touch", {}),
}


def command(peer: str = "alice") -> list[str]:
    """What stands in for ssh."""
    return [sys.executable, "-m", "tests.unit.peer_fixture", peer]


if __name__ == "__main__":
    import xenhelper
    from xenhelper import paths
    from xenhelper.peer import server, verbs

    verbs.VERBS.update({key: ("tests.unit.peer_fixture", f, s) for key, (_, f, s) in VERBS.items()})
    if "FAKE_CODE" in os.environ:
        xenhelper.__file__ = os.environ["FAKE_CODE"]
    paths.RUN = os.environ.get("FAKE_RUN", paths.RUN)
    server.main(sys.argv)
