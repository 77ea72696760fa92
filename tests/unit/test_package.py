"""What is shipped fits together: documentation, metadata, units, hooks."""

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

import xenhelper
from xenhelper import paths
from xenhelper.cli import main
from xenhelper.peer import verbs
from xenhelper.setup import half

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "systemd").iterdir())


def test_configuration_pages_are_made_from_the_spec() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "mk/configuration", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_error_line_is_in_the_manual() -> None:
    done = subprocess.run([sys.executable, ROOT / "mk/messages", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (ROOT / "docs/troubleshooting.md").read_text()
    for some in ("is in use on …", "`… isn't dead: …`", "can't be replicated"):
        assert some in page
    # a section's marker names modules that are there, but for those that are planned for it
    named = {name for line in re.findall("<!-- messages of (.*?) -->", page) for name in line.split()}
    for path in (ROOT / "xenhelper").rglob("*.py"):
        named.discard(str(path.relative_to(ROOT / "xenhelper")).removesuffix(".py"))
    assert "hotplug" not in named and "others" in named


def test_one_version_everywhere() -> None:
    first = (ROOT / "debian/changelog").read_text().splitlines()[0]
    assert first.startswith(f"xenhelper ({xenhelper.__version__}) ")
    assert f"xenhelper_{xenhelper.__version__}_all.deb" in (ROOT / "README.md").read_text()


def test_every_dependency_is_a_debian_package_too() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = set(setup["options"]["install_requires"].split())
    assert wanted == {"pyxs", "configobj", "libvirt-python", "systemd-python"}
    control = (ROOT / "debian/control").read_text()
    for package in ("python3-pyxs", "python3-configobj", "python3-libvirt", "python3-systemd"):
        assert package in control


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_units_start_commands_that_exist(unit: Path) -> None:
    text = unit.read_text()
    for command in re.findall(r"^ExecStart=/usr/sbin/xenhelper (\S+)", text, re.MULTILINE):
        assert command in main.commands()
    for hook in re.findall(rf"^ExecStart={paths.LIBEXEC}/(\S+)", text, re.MULTILINE):
        assert (ROOT / "hooks" / hook).exists()


def test_resources_survive_a_stop_of_their_unit() -> None:
    text = (ROOT / "systemd/xenhelper-resources.service").read_text()
    assert "RemainAfterExit=yes" in text
    # which does nothing while the host stays up (test_boot.py)
    assert re.findall("^ExecStop=.*", text, re.MULTILINE) == ["ExecStop=/usr/sbin/xenhelper resources-down"]
    assert "Before=xendomains.service" in text


def test_no_package_enables_or_starts_a_unit_by_itself() -> None:
    """debhelper does for units in /usr/lib from Debian 13 on, and did not before."""
    assert re.search(r"^override_dh_installsystemd:\n\n", (ROOT / "debian/rules").read_text(), re.MULTILINE)


def test_setup_enables_only_units_that_are_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half, "_said", lambda _: [])
    names = {re.sub("@.*[.]", "@.", line.split()[-1]) for line in half.enable_units("bob", True, False)}
    assert len(names) == 8 and names <= {unit.name for unit in UNITS}


@pytest.mark.parametrize("verb", sorted(verbs.VERBS))
def test_every_verb_has_its_function(verb: str) -> None:
    function, schema = verbs.handler(verb)
    assert callable(function)
    assert all(isinstance(kind, list | type) for kind in schema.values())


@pytest.mark.parametrize("command", main.commands())
def test_every_command_tells_its_usage(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: xenhelper {command}" in capsys.readouterr().out


def test_pages_name_every_public_command() -> None:
    page = (ROOT / "man/xenhelper.8").read_text().replace("\\-", "-")
    for command in main.commands():
        if main._module(command).HELP:
            assert re.search(rf"^\.B {command}\b", page, re.MULTILINE), command


@pytest.mark.parametrize("module", ["hotplug", "letgo", "handover", "stepdown", "drbdevent", "insync"])
def test_what_somebody_waits_for_imports_nothing_heavy(module: str) -> None:
    """Each of these costs about as much as starting the interpreter: a guest's downtime waits
    for the block script, the kernel's worker and an alert for DRBD's handler."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import xenhelper.{module};"
        "print(*({'socket', 'enum', 'signal', 're', 'json', 'collections', 'typing'} & sys.modules.keys()))"
    )
    done = subprocess.run(["/usr/bin/python3", "-IS", "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")
