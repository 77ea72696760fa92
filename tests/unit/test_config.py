"""The configuration: what is read, what each mistake says, what writing keeps."""

from pathlib import Path

import pytest

from xenhelper import config
from xenhelper.errors import ConfigError

GOOD = """\
# our two hosts
[host]
name = alice
management = 192.168.1.1
replication = 10.99.0.1

[peers]
[[bob]]
management = 192.168.1.2
replication = 10.99.0.2
[[[volume_groups]]]
vg0 = vg0
ssd = fast   # another name there

[replicate]
volume_groups = vg0, ssd
exclude_volumes = vg0/scratch-*
exclude_vms = test-*, "dev?"
"""


def load(tmp_path: Path, text: str) -> config.Config:
    path = tmp_path / "xenhelper.conf"
    path.write_text(text)
    return config.load(str(path))


def test_everything_is_read_and_defaults_fill_the_rest(tmp_path: Path) -> None:
    found = load(tmp_path, GOOD)
    assert (found.host, found.management, found.replication) == ("alice", "192.168.1.1", "10.99.0.1")
    assert found.volume_groups == ("vg0", "ssd")
    assert found.exclude_volumes == ("vg0/scratch-*",)
    assert found.exclude_vms == ("test-*", "dev?")
    assert found.shared_volumes == ()
    assert (found.ports, found.minors, found.protocol) == ((7800, 7999), (1000, 1999), "A")
    (bob,) = found.peers_for("web1")
    assert bob == config.Peer(
        "bob", "192.168.1.2", "10.99.0.2", "10.99.0.1", {"vg0": "vg0", "ssd": "fast"}, 22
    )


def test_one_value_is_a_list_too(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD.replace("vg0, ssd", "vg0")).volume_groups == ("vg0",)
    assert load(tmp_path, GOOD.replace("vg0, ssd", "vg0,")).volume_groups == ("vg0",)


def test_percent_and_dollar_are_just_characters(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD.replace("test-*", "%(x)s$y")).exclude_vms[0] == "%(x)s$y"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("exclude_vms", "exclude_vmz", ["line 18", "unknown key", "exclude_vmz", "exclude_vms"]),
        ("[replicate]", "[replicat]", ["line 15", "unknown section replicat", "known here: host"]),
        ("10.99.0.2", "10.99.0.256", ["line 10", "[peers][bob] replication", "10.99.0.256", "IPv4"]),
        ("10.99.0.2", "10.99.0.2, 10.99.0.3", ["line 10", "[peers][bob] replication", "no list"]),
        ("management = 192.168.1.1\n", "", ["line 2", "[host] management is missing"]),
        ("name = alice", "name = -alice", ["line 3", "[host] name", "uname -n"]),
        ("[[bob]]", "[[alice]]", ["line 8", "this host itself"]),
        ("vg0/scratch-*", "scratch-*", ["line 17", "exclude_volumes", "VG/LV"]),
        ("ssd = fast", "ssd = a/b", ["line 13", "volume_groups] ssd", "volume group's name"]),
        ("vg0, ssd", "vg0, ssd, hdd", ["line 16", "no peer has a place for hdd"]),
        ("[replicate]", "[drbd]\nprotocol = B\n[replicate]", ["line 16", "[drbd] protocol", "A or C"]),
        ("[replicate]", "[numbers]\nports = 80, 90\n[replicate]", ["line 16", "ports", "1024 to 65535"]),
        ("[replicate]", "[numbers]\nports = 9000, 8000\n[replicate]", ["line 16", "ports"]),
        ("[replicate]", "[numbers]\nminors = 5\n[replicate]", ["line 16", "minors", "first and last"]),
        ("[replicate]", "[placement]\nweb* = carol\n[replicate]", ["line 16", "carol is no peer", "bob"]),
        ("[host]", "host", ["line 2"]),
        ("[host]", "[host", ["line 2"]),
        ("name = alice", "name = alice\nname = bob", ["line 4"]),
    ],
)
def test_each_mistake_names_line_key_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, said: list[str]
) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    for part in ["xenhelper.conf", *said]:
        assert part in str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_missing_file_says_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is missing; xenhelper setup"):
        config.load(str(tmp_path / "none"))


def test_binary_file_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        config.load(str(tmp_path / "x"))


TWO = GOOD.replace(
    "[replicate]",
    "[[carol]]\nmanagement = 192.168.1.3\nreplication = 10.98.0.3\nlocal_replication = 10.98.0.1\n"
    "[[[volume_groups]]]\nvg0 = vg0\n[placement]\nweb* = bob\n* = carol\n[replicate]",
)


def test_placement_takes_the_first_pattern_that_fits(tmp_path: Path) -> None:
    found = load(tmp_path, TWO)
    assert [peer.name for peer in found.peers_for("web1")] == ["bob"]
    assert [peer.name for peer in found.peers_for("db")] == ["carol"]
    assert found.peers_for("db")[0].local_replication == "10.98.0.1"


def test_without_placement_any_peer_may_take_it(tmp_path: Path) -> None:
    found = load(tmp_path, TWO.replace("web* = bob\n* = carol\n", ""))
    assert [peer.name for peer in found.peers_for("web1")] == ["bob", "carol"]
    with pytest.raises(ConfigError, match="dave is no peer"):
        found.peer("dave")


def test_writing_keeps_comments_and_other_settings(tmp_path: Path) -> None:
    text = config.render(GOOD, {"peers": {"bob": {"replication": "10.99.0.9"}}})
    assert "# our two hosts" in text and "# another name there" in text
    found = load(tmp_path, text)
    assert found.peers["bob"].replication == "10.99.0.9"
    assert found.exclude_vms == ("test-*", "dev?")


def test_writing_the_same_changes_nothing() -> None:
    once = config.render(GOOD, {})
    assert (
        config.render(once, {"host": {"name": "alice"}, "replicate": {"volume_groups": ["vg0", "ssd"]}})
        == once
    )


def test_new_file_loads_and_is_stored_once(tmp_path: Path) -> None:
    text = config.render(
        "",
        {
            "host": {"name": "alice", "management": "192.168.1.1", "replication": "10.99.0.1"},
            "peers": {
                "bob": {
                    "management": "192.168.1.2",
                    "replication": "10.99.0.2",
                    "volume_groups": {"vg0": "vg0"},
                }
            },
            "replicate": {"volume_groups": ["vg0"]},
        },
    )
    path = tmp_path / "etc" / "xenhelper.conf"
    assert config.store(text, str(path)) is True
    assert config.store(text, str(path)) is False
    assert path.stat().st_mode & 0o777 == 0o644
    assert config.load(str(path)).peers["bob"].volume_groups == {"vg0": "vg0"}
    assert text.startswith("# xenhelper")


def test_a_file_that_would_not_load_is_never_stored(tmp_path: Path) -> None:
    path = tmp_path / "xenhelper.conf"
    path.write_text(GOOD)
    with pytest.raises(ConfigError):
        config.store(GOOD.replace("10.99.0.1", "nonsense"), str(path))
    assert path.read_text() == GOOD
    assert [entry.name for entry in tmp_path.iterdir()] == ["xenhelper.conf"]
