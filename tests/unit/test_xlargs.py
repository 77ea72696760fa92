"""Which of xl's command lines are ours."""

import pytest

from xenhelper import xlargs


@pytest.mark.parametrize(
    ("argv", "config", "overrides"),
    [
        ("create web1.cfg", "web1.cfg", []),
        ("cr web1.cfg", "web1.cfg", []),
        ("-v -vf create web1.cfg memory=1", "web1.cfg", ["memory=1"]),
        ("create --quiet --defconfig FILE", "FILE", []),
        ("create --quiet --defconfig=FILE", "FILE", []),
        ("create --def FILE -c", "FILE", []),
        ("create -qf FILE a=1", "FILE", ["a=1"]),
        ("create -fFILE -pe", "FILE", []),
        ("create a=1 web1.cfg b=2", "web1.cfg", ["a=1", "b=2"]),
        ("create web1.cfg -f other", "other", []),
        ("create -c -- web1.cfg -x=1", "web1.cfg", ["-x=1"]),
        ("create --ignore web1.cfg", "web1.cfg", []),
    ],
)
def test_creates_are_read_as_xl_reads_them(argv: str, config: str, overrides: list[str]) -> None:
    command = xlargs.parse(argv.split())
    assert command is not None
    assert (command.config, command.overrides) == (config, overrides)


@pytest.mark.parametrize(
    "argv",
    [
        "create",
        "create -n web1.cfg",
        "create web1.cfg -qn",
        "create web1.cfg --dryrun",
        "create --dry web1.cfg",
        "-N create web1.cfg",
        "-vN create web1.cfg",
        "create -h",
        "create --help web1.cfg",
        "create web1.cfg other.cfg",
        "create -x web1.cfg",
        "create --vnc web1.cfg",
        "create --quiet=1 web1.cfg",
        "create -f",
        "create a=1",
        "-x create web1.cfg",
        "",
    ],
)
def test_what_xl_deals_with_alone(argv: str) -> None:
    assert xlargs.parse(argv.split()) is None


def test_posixly_correct_stops_at_the_first_word() -> None:
    command = xlargs.parse(["create", "a=1", "-n", "x=1"], permute=False)
    assert command is not None and command.config == "-n"
    command = xlargs.parse(["create", "a=1", "w.cfg", "-n=1"], permute=False)
    assert command is not None and command.overrides == ["a=1", "-n=1"]
