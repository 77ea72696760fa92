"""/etc/default/xendomains: found, turned off once, put back by purge."""

import subprocess
from pathlib import Path

import pytest

from xenhelper import paths, xendomains
from xenhelper.setup import half

DEBIAN = """# defaults of xen-utils-common
XENDOMAINS_MIGRATE=""
XENDOMAINS_SAVE=/var/lib/xen/save
XENDOMAINS_SHUTDOWN="--wait"
XENDOMAINS_RESTORE=true # at boot
XENDOMAINS_AUTO=/etc/xen/auto
"""


def shell_values(text: str) -> str:
    """As the init script reads them."""
    program = text + 'echo "$XENDOMAINS_MIGRATE,$XENDOMAINS_SAVE,$XENDOMAINS_SHUTDOWN,$XENDOMAINS_RESTORE"'
    return subprocess.run(["sh", "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_debians_defaults_are_found() -> None:
    assert "saves guests" in xendomains.problem(DEBIAN)
    assert xendomains.problem("XENDOMAINS_SAVE=\nXENDOMAINS_RESTORE=TRUE\n") != ""
    assert xendomains.problem("# XENDOMAINS_SAVE=/x\n") == ""
    assert xendomains.problem("") == ""


def test_only_the_two_are_turned_off() -> None:
    mended = xendomains.mended(DEBIAN)
    assert xendomains.problem(mended) == ""
    assert shell_values(DEBIAN) == ",/var/lib/xen/save,--wait,true"
    assert shell_values(mended) == ",,--wait,false"


def test_it_is_done_once_so_that_an_administrator_can_have_it_otherwise() -> None:
    again = xendomains.mended(DEBIAN).replace("RESTORE=false", "RESTORE=true")
    assert xendomains.problem(again) and xendomains.mended(again) == again


def test_setup_writes_it_and_purge_puts_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    assert half._xendomains(False) == []
    file = tmp_path / "etc/default/xendomains"
    file.parent.mkdir(parents=True)
    file.write_text(DEBIAN)
    assert len(half._xendomains(True)) == 1 and file.read_text() == DEBIAN
    assert "xendomains" in half._xendomains(False)[0]
    assert half._xendomains(False) == []
    assert file.stat().st_mode & 0o777 == 0o644
    script = (Path(__file__).parents[2] / "debian/xenhelper.postrm").read_text()
    (call,) = [line.strip() for line in script.splitlines() if "#xenhelper-setup#" in line]
    done = call.replace("/etc/default/xendomains", str(file))
    subprocess.run(["sh", "-c", done], check=True)
    assert file.read_text() == DEBIAN
