"""The names of all external steps, read from the code: ``python3 -m xenhelper.crashpoints``.

An external step is a call that starts a program, writes a durable record, asks the peer
or writes to xenstore, directly or through one of the thin modules in :data:`PORTS`. Its
name is ``module:function:step``, with ``#2`` and so on when a function has several alike.
Only tests import this; see xenhelper.crash for how one is armed.
"""

import ast
import os
import types
from functools import cache

# whose functions count as steps of those who call them; reading DRBD's state is in none
PORTS = (
    "run", "statefile", "intents", "permits", "peer.client", "xen.xenstore",
    "drbd.verbs", "drbd.bringup", "drbd.adm", "volumes",
)  # fmt: skip
_PRIMITIVES = {
    ("run", "run"), ("run", "shown"), ("statefile", "write_atomically"), ("statefile", "remove"),
    ("statefile", "write_at"),
    ("peer.client", "ask"),
    ("xen.xenstore", "write"), ("xen.xenstore", "write_all"), ("xen.xenstore", "remove"),
}  # fmt: skip
_ROOT = os.path.dirname(__file__)
_PACKAGE = "xenhelper."


class Point:
    """One call site: its name, and the lines that it spans."""

    __slots__ = ("first", "function", "last", "name", "step")

    def __init__(self, function: str, step: str, first: int, last: int) -> None:
        self.function = function
        self.step = step
        self.first = first
        self.last = last
        self.name = ""


class _Calls(ast.NodeVisitor):
    """Calls of port functions in one module, with the function that each stands in."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.where: list[str] = []
        self.names: dict[str, tuple[str, str]] = {}
        self.found: list[tuple[str, tuple[str, str], int, int]] = []

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = (node.module or "") + "."
        for alias in node.names:
            full = (base + alias.name).removeprefix(_PACKAGE)
            if full in PORTS:
                self.names[alias.asname or alias.name] = (full, "")
            elif base.removeprefix(_PACKAGE).rstrip(".") in PORTS:
                self.names[alias.asname or alias.name] = (
                    base.removeprefix(_PACKAGE).rstrip("."),
                    alias.name,
                )

    def _inside(self, node: ast.AST, name: str) -> None:
        self.where.append(name)
        self.generic_visit(node)
        self.where.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._inside(node, node.name)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._inside(node, node.name)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._inside(node, node.name)

    def visit_Call(self, node: ast.Call) -> None:
        target = self._target(node.func)
        if target is not None:
            self.found.append((".".join(self.where), target, node.lineno, node.end_lineno or node.lineno))
        self.generic_visit(node)

    def _target(self, func: ast.expr) -> "tuple[str, str] | None":
        if isinstance(func, ast.Name):
            known = self.names.get(func.id)
            if known is not None and known[1]:
                return known
            return (self.module, func.id) if self.module in PORTS else None
        if not isinstance(func, ast.Attribute):
            return None
        base = func.value
        if isinstance(base, ast.Name) and self.names.get(base.id, ("", "x"))[1] == "":
            return self.names[base.id][0], func.attr
        owner = base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")
        return ("xen.xenstore", func.attr) if owner == "store" else None


@cache
def _calls(module: str) -> _Calls:
    found = _Calls(module)
    with open(os.path.join(_ROOT, *module.split(".")) + ".py", encoding="utf-8") as file:
        found.visit(ast.parse(file.read()))
    return found


@cache
def acting() -> "frozenset[tuple[str, str]]":
    """(port module, function) of all that take an external step, through each other too."""
    steps = set(_PRIMITIVES)
    while True:
        more = {
            (module, where.split(".")[-1])
            for module in PORTS
            for where, target, _, _ in _calls(module).found
            if target in steps and where
        } - steps
        if not more:
            return frozenset(steps)
        steps |= more


@cache
def points(module: str) -> "tuple[Point, ...]":
    """The steps that ``module`` (``drbd.verbs``) takes, in the order of its lines."""
    found = []
    seen: dict[str, list[Point]] = {}
    for where, target, first, last in _calls(module).found:
        if target not in acting():
            continue
        short = target[0].rsplit(".", 1)[-1]
        step = target[1] if short == target[1] else f"{short}.{target[1]}"
        point = Point(where, step, first, last)
        point.name = f"{module}:{where}:{step}"
        seen.setdefault(point.name, []).append(point)
        found.append(point)
    for alike in seen.values():
        for number, point in enumerate(alike if len(alike) > 1 else [], 1):
            point.name += f"#{number}"
    return tuple(found)


def modules() -> "list[str]":
    """Every module of the package but the test aids, as ``drbd.verbs``."""
    found = []
    for folder, _, files in os.walk(_ROOT):
        for name in files:
            path = os.path.relpath(os.path.join(folder, name), _ROOT)
            if name.endswith(".py") and name not in ("__init__.py", "crash.py", "crashpoints.py"):
                found.append(path.removesuffix(".py").replace(os.sep, "."))
    return sorted(found)


def stack(frame: "types.FrameType | None") -> "list[str]":
    """What is being done, innermost first: the step's name, then ``module:function`` of
    everything above it."""
    names: list[str] = []
    while frame is not None:
        module = str(frame.f_globals.get("__name__", "")).removeprefix(_PACKAGE)
        full = str(frame.f_globals.get("__name__", ""))
        # a port reaches crash.at through paths.crash: neither is what is being done
        if full.startswith(_PACKAGE) and module not in PORTS and module not in ("crash", "paths"):
            where = frame.f_code.co_qualname.replace(".<locals>", "")
            if not names:
                here = [point for point in points(module) if point.first <= frame.f_lineno <= point.last]
                # the innermost of nested calls is the one whose span is smallest
                here.sort(key=lambda point: point.last - point.first)
                names.append(here[0].name if here else f"{module}:{where}:?")
            names.append(f"{module}:{where}")
        frame = frame.f_back
    return names


def main() -> int:
    """Print every name, one a line."""
    for module in modules():
        if module not in PORTS:
            for point in points(module):
                print(point.name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
