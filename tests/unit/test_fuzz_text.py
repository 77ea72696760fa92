"""Whatever a tool prints or a file holds, the reader ends with a value or with our own error."""

import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit import fuzzing
from tests.unit.fuzzing import TEXT, broken, captured, count, fuzz
from xenhelper import config, names, restore, statefile, vmfile, volumes, xlargs
from xenhelper.drbd import barrier, events, proc, resfile, resscan, show, verbs
from xenhelper.errors import ConfigError, XenhelperError
from xenhelper.xen import domains, vmconfig

CONFIG = """\
[host]
name = alice
management = 10.98.0.1
replication = 10.99.0.1

[peers]
[[bob]]
management = 10.98.0.2
replication = 10.99.0.2
[[[volume_groups]]]
vg0 = vg0

[replicate]
volume_groups = vg0,
"""


@fuzz
@given(broken(captured("events2-*.txt")))
def test_events2_lines(text: str) -> None:
    count(test_events2_lines)
    for name, found in events.parse(text).items():
        assert found.name == name and found.minor >= -1
        assert min(found.size, found.out_of_sync, found.upper_pending, found.lower_pending) >= 0
        assert isinstance(found.in_sync, bool) and repr(found)


@fuzz
@given(broken(captured("drbdsetup-show-*.txt") + captured("in-flight-*.txt") + captured("*get-gi*.txt")))
def test_what_drbd_shows(text: str) -> None:
    count(test_what_drbd_shows)
    for settings in show.parse(text).values():
        assert settings.minor >= -1
    age = barrier.oldest_write_ms(text)
    assert age is None or age >= 0
    proc.parse(text.replace("disk:", "ds:"))
    try:
        assert min(verbs.parse_generation(text)) >= 0
    except XenhelperError:
        pass


@fuzz
@given(
    broken(
        [*captured("*.res"), "resource a { device /dev/drbd7; on b { address [::1]:77; disk /dev/x/y; } }"]
    )
)
def test_resource_files(text: str) -> None:
    count(test_resource_files)
    found, includes = resscan.scan_text(text, "alice")
    assert all(0 <= minor < 10**9 for minor in found.minors) and all(isinstance(i, str) for i in includes)
    # whatever stands before it, a whole resource of its own line is seen
    after, _ = resscan.scan_text(text + "\nresource zz { device minor 77; }\n", "alice")
    assert {"zz"} <= after.names or '"' in text or "#" in text
    assert all(words and "{" not in words for words in resscan.top_level(text))
    assert isinstance(resscan.unclosed(text), bool)
    for name, secret in resfile.secrets(text).items():
        assert '"' not in name and re.fullmatch("[0-9a-f]{32,64}", secret)


def test_a_scan_takes_time_with_the_size_and_no_more() -> None:
    """Unclosed strings and brackets of some MB: none is looked at again and again."""
    for text in ('"\\' * 500_000, "[" * 1_000_000, 'address "' + "[" * 1_000_000, '"' + "\\\\" * 500_000):
        resscan.scan_text(text, "a")


@fuzz
@given(broken([CONFIG]))
def test_configurations(text: str) -> None:
    count(test_configurations)
    path = _SCRATCH / "xenhelper.conf"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found = config.load(str(path))
    except ConfigError as error:
        assert str(path) in str(error) or "line" in str(error)
        return
    for peer in found.peers.values():
        assert names.valid_host(peer.name) and config.valid_address(peer.replication)
    assert 0 < found.ports[0] <= found.ports[1] < 65536


_SCRATCH = Path()


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path) -> None:
    global _SCRATCH
    _SCRATCH = tmp_path


@fuzz
@given(st.dictionaries(TEXT.filter(lambda key: key[:1] not in ("", "#")), TEXT, max_size=5))
def test_records_hold_what_was_written_and_nothing_more(record: dict[str, str]) -> None:
    """A value that a peer chose can't become another key."""
    count(test_records_hold_what_was_written_and_nothing_more)
    path = str(_SCRATCH / "record")
    try:
        statefile.write(path, record)
    except XenhelperError:
        return
    plain = {
        key.encode("utf-8", "replace").decode(): value.encode("utf-8", "replace").decode()
        for key, value in record.items()
    }
    assert statefile.read(path) == plain


@fuzz
@given(broken(captured("xl-list*.txt") + captured("xl-create-dryrun-*.txt") + captured("lvs-report.txt")))
def test_what_xl_and_lvm_print(text: str) -> None:
    count(test_what_xl_and_lvm_print)
    for domain in domains.parse(text):
        assert domain.domid > 0
    for parse in (vmconfig.parse, volumes.parse_volumes, volumes.parse_groups):
        try:
            parse(text)
        except XenhelperError:
            pass


@fuzz
@given(TEXT, st.lists(TEXT.filter(lambda s: all(ord(c) >= 32 for c in s)), max_size=3), TEXT)
def test_a_config_gets_its_block_and_loses_it_again(text: str, specs: list[str], more: str) -> None:
    count(test_a_config_gets_its_block_and_loses_it_again)
    try:
        whole = vmconfig.compose(text, "web1", ("alice", "bob"), specs)
        vmconfig.to_bytes(whole)
    except XenhelperError as error:
        assert "can't hold the character U+D" in str(error)
        return
    if vmconfig.BEGIN in text:
        return
    if not any(vmconfig.BEGIN in spec or vmconfig.END in spec for spec in specs):
        assert vmconfig.split(whole) == (text, vmconfig.Block("web1", True))
    try:
        vmconfig.split(whole + more)
        vmconfig.split(text + more)
    except XenhelperError:
        pass


@fuzz
@given(
    st.lists(st.sampled_from(["create", "-f", "--defconfig", "a.cfg", "-c", "--", "x=1"]) | TEXT, max_size=6)
)
def test_command_lines_and_names(argv: list[str]) -> None:
    count(test_command_lines_and_names)
    for permute in (True, False):
        found = xlargs.parse(argv, permute)
        assert found is None or isinstance(found.config, str)
    for word in argv:
        if names.valid_vm(word):
            assert "/" not in word and word.isascii() and not word.startswith("-")
            assert re.fullmatch(r"[\w+-]+", names.resource_name(word, "xvda"), re.ASCII)
        if names.valid_resource(word):
            assert re.fullmatch(r"[\w+-]+", word, re.ASCII) and word[0] not in "-+"
        volumes.split_path("/dev/" + word)
        vmfile.is_of(word, "web1")
        resfile_family(word)


def resfile_family(word: str) -> None:
    try:
        assert resfile.family(word) in ("ipv4", "ipv6")
    except XenhelperError:
        pass


@fuzz
@given(st.integers(0, 2**32), st.binary(max_size=200), st.integers(0, 60))
def test_saved_images(seed: int, junk: bytes, at: int) -> None:
    count(test_saved_images)
    body = (
        b"\0\0\0\0"
        + b'{"c_info": {"name": "web1"}, "disks": [{"pdev_path": "web1-xvda", '
        + b'"script": "block-xenhelper"}]}\0'
    )
    head = restore._MAGIC + b"\x04\x03\x02\x01" + bytes(8) + len(body).to_bytes(4, "little")
    data = bytearray(head + body)
    chance = random.Random(seed)  # noqa: S311
    if at:
        where = chance.randrange(len(data))
        data[where : where + chance.randrange(8)] = junk
    path = _SCRATCH / "image"
    path.write_bytes(bytes(data))
    found = restore.read_header(str(path))
    assert found is None or isinstance(found["resources"], list)


def test_all_of_it_is_counted() -> None:
    assert fuzzing.EACH >= 1
