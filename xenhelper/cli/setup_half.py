"""``xenhelper setup-half``: one request on stdin, one answer on stdout; for setup on the peer."""

import argparse
import json
import os
import sys

from xenhelper.errors import EXIT_DONE, EXIT_FAILED, XenhelperError
from xenhelper.peer import messages
from xenhelper.setup import half

HELP = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(args: argparse.Namespace) -> int:
    """Always 0: the answer says what failed."""
    out = os.dup(1)
    os.dup2(2, 1)  # nothing else may print into the answer
    answer: dict[str, object]
    try:
        request = messages.decode(sys.stdin.buffer.read(messages.MAX_BYTES + 1))
        answer = {"ok": half.handle(request)}
    except XenhelperError as error:
        answer = {"error": error.what, "do": error.do, "exit": error.exit_code}
    except (OSError, KeyError, ValueError, TypeError) as error:
        answer = {"error": f"setup here failed: {type(error).__name__}: {error}", "exit": EXIT_FAILED}
    os.write(out, (json.dumps(answer) + "\n").encode())
    return EXIT_DONE
