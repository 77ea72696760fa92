"""libvirt-python, as far as xenhelper uses it: state in WORLD/HOST.libvirt.json.

``domains``: by name, with ``xml``, ``active``, ``saved``, ``job`` (type, ms). What it raises
and the constants are libvirt's own (virterror.h, libvirt-domain.h).
"""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

VIR_DOMAIN_XML_SECURE = 1
VIR_DOMAIN_XML_INACTIVE = 2
VIR_DOMAIN_JOB_NONE = 0
VIR_ERR_NO_DOMAIN = 42
VIR_ERR_OPERATION_FAILED = 9
VIR_ERR_INTERNAL_ERROR = 1


class libvirtError(Exception):  # noqa: N801 (its name there)
    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code

    def get_error_code(self) -> int:
        return self.code


def _path() -> Path:
    return Path(os.environ["XH_WORLD"]) / f"{os.environ['XH_HOST']}.libvirt.json"


def _state() -> Any:
    if not _path().exists():
        raise libvirtError("no connection driver available for xen:///system", VIR_ERR_INTERNAL_ERROR)
    return json.loads(_path().read_text())


def registerErrorHandler(handler: Any, context: Any) -> None:  # noqa: N802
    pass


class _Domain:
    def __init__(self, name: str) -> None:
        self.name = name

    def _of(self) -> Any:
        return _state()["domains"][self.name]

    def isActive(self) -> int:  # noqa: N802
        return int(self._of().get("active", False))

    def isPersistent(self) -> int:  # noqa: N802
        return 1

    def hasManagedSaveImage(self) -> int:  # noqa: N802
        return int(self._of().get("saved", False))

    def XMLDesc(self, flags: int) -> str:  # noqa: N802
        assert flags == VIR_DOMAIN_XML_SECURE | VIR_DOMAIN_XML_INACTIVE, flags
        return str(self._of()["xml"])

    def jobInfo(self) -> "list[int]":  # noqa: N802
        kind, elapsed = self._of().get("job", (VIR_DOMAIN_JOB_NONE, 0))
        return [kind, elapsed, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]


class _Connection:
    def lookupByName(self, name: str) -> _Domain:  # noqa: N802
        if name not in _state()["domains"]:
            raise libvirtError(f"Domain not found: {name}", VIR_ERR_NO_DOMAIN)
        return _Domain(name)

    def defineXML(self, xml: str) -> _Domain:  # noqa: N802
        done = subprocess.run([Path(os.environ["XH_WORLD"]) / "bin/defineXML"], check=False)
        if done.returncode:
            raise libvirtError("operation failed", VIR_ERR_OPERATION_FAILED)
        found = re.search(r"<name>(.*?)</name>", xml)
        uuid = re.search(r"<uuid>(.*?)</uuid>", xml)
        assert found is not None and uuid is not None
        state = _state()
        old = state["domains"].get(found[1])
        if old is not None and f"<uuid>{uuid[1]}</uuid>" not in old["xml"]:
            raise libvirtError(
                f"operation failed: domain '{found[1]}' already exists with uuid", VIR_ERR_OPERATION_FAILED
            )
        state["domains"][found[1]] = {**(old or {}), "xml": xml}
        _path().write_text(json.dumps(state))
        return _Domain(found[1])


def open(uri: str) -> _Connection:
    assert uri == "xen:///system"
    _state()
    return _Connection()
