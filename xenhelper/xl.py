"""The shim behind ``/usr/local/sbin/xl``: what ``create``, ``migrate`` and ``restore`` pass through.

The shell part (hooks/xl) has already sent every other command to the real xl.
"""

import os
import sys

from xenhelper import log
from xenhelper.errors import XenhelperError
from xenhelper.xen.domains import real_xl


def main(argv: "list[str]") -> int:
    """``argv`` is what was typed after ``xl``. Returns an exit status, or becomes the real xl."""
    command = next((word for word in argv if not word.startswith("-")), "")
    try:
        if command == "migrate":
            from xenhelper import migrate

            return migrate.main(argv)
        if command.startswith("res"):
            from xenhelper import restore

            rest = restore.main(argv)
        else:
            from xenhelper import create

            rest = create.main(argv)
        xl = real_xl()
        os.execv(xl, ["xl", *rest])
    except XenhelperError as error:
        log.event("refused", f"xl {command}: {error}", log.ERROR)
        print(f"xenhelper: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        log.event("refused", f"xl {command}: {error}", log.ERROR)
        print(f"xenhelper: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
