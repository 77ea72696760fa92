"""Finds the command, imports only its module, turns errors into one line and an exit code."""

import os
import sys
from typing import Any

from xenhelper import __version__, paths
from xenhelper.errors import EXIT_FAILED, EXIT_USAGE, XenhelperError

_NOT_COMMANDS = {"__init__.py", "main.py"}


def commands() -> list[str]:
    """Names of all commands, hidden ones too."""
    files = os.listdir(os.path.dirname(__file__))
    return sorted(
        name.removesuffix(".py").replace("_", "-")
        for name in files
        if name.endswith(".py") and name not in _NOT_COMMANDS
    )


def _module(command: str) -> Any:
    import importlib

    return importlib.import_module("xenhelper.cli." + command.replace("-", "_"))


def _overview() -> str:
    lines = ["usage: xenhelper COMMAND [...]; `xenhelper COMMAND --help` tells more", ""]
    for command in commands():
        text = _module(command).HELP
        if text:
            lines.append(f"  {command:14}{text}")
    lines += ["", f"  {'--version':14}versions of xenhelper, Xen, the kernel and DRBD", ""]
    lines += ["Daily work is plain `xl create`, `xl migrate`. See xenhelper(8)."]
    return "\n".join(lines)


def _who() -> str:
    """What an error line begins with: red on a terminal, unless NO_COLOR (no-color.org) or
    the terminal says no."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    return "xenhelper:" if plain or not sys.stderr.isatty() else "\x1b[31mxenhelper:\x1b[0m"


def _versions() -> str:
    """Ours, and those of what matters between two hosts (a bug report needs them)."""
    from xenhelper.peer import about

    found = about.versions()
    return (
        f"xenhelper {__version__}\nXen {found['xen'] or '(this host runs without it now)'}\n"
        f"Linux {found['kernel']}\nDRBD {found['drbd'] or '(its module is not loaded)'}"
    )


def parser_of(command: str) -> Any:
    """The argument parser of a command, its examples last."""
    import argparse

    module = _module(command)
    examples = getattr(module, "EXAMPLES", "")
    parser = argparse.ArgumentParser(
        prog=f"xenhelper {command}",
        description=module.HELP or None,
        epilog=f"examples:\n{examples}\nxenhelper(8) tells the rest." if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code (see xenhelper.errors)."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        return _main(arguments)
    except XenhelperError as error:
        print(f"{_who()} {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # the reader (a pager, `head`) has seen enough; keep the interpreter's own flush quiet
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("xenhelper: interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"{_who()} {error}", file=sys.stderr)
        return EXIT_FAILED


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if arguments else EXIT_USAGE
    if arguments[0] == "--version":
        print(_versions())
        return 0
    command = arguments[0]
    if command not in commands():
        print(f"xenhelper: no command {command!r}; `xenhelper --help` lists them", file=sys.stderr)
        return EXIT_USAGE
    args = parser_of(command).parse_args(arguments[1:])
    if os.geteuid() != 0 and not paths.ROOT:
        print(f"xenhelper: {command} needs root", file=sys.stderr)
        return EXIT_FAILED
    status: int = _module(command).run(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
