"""The types of xenhelper.conf.spec beyond ConfigObj's own; each error says what is allowed."""

import re
from typing import Any

from xenhelper import names


def validator() -> Any:
    """A Validator that knows our types."""
    from configobj.validate import ValidateError, Validator

    def wrong(value: object, allowed: str) -> Exception:
        shown = ", ".join(value) if isinstance(value, list) else str(value)
        error: Exception = ValidateError(f"{shown!r} isn't allowed; allowed: {allowed}")
        return error

    def text(value: Any, allowed: str) -> str:
        if not isinstance(value, str):
            raise wrong(value, allowed + " (one value, no list)")
        return value

    def many(value: Any) -> list[str]:
        found = value if isinstance(value, list) else [value]
        return [item for item in found if item != ""]

    def host_name(value: Any) -> str:
        allowed = "a host's name as `uname -n` says it (letters, digits, '-', '_', '.')"
        if not names.valid_host(text(value, allowed)):
            raise wrong(value, allowed)
        return str(value)

    def address(value: Any) -> str:
        from xenhelper.config import valid_address

        allowed = "an IPv4 address, as in 10.99.0.1"
        if not valid_address(text(value, allowed)):
            raise wrong(value, allowed)
        return str(value)

    def address_or_empty(value: Any) -> str:
        return "" if value == "" else address(value)

    def volume_group(value: Any) -> str:
        allowed = "a volume group's name"
        if not _VOLUME_GROUP.fullmatch(text(value, allowed)) or value in (".", ".."):
            raise wrong(value, allowed)
        return str(value)

    def volume_group_list(value: Any) -> list[str]:
        return [volume_group(item) for item in many(value)]

    def pattern_list(value: Any) -> list[str]:
        for item in many(value):
            if not _VOLUME_PATTERN.fullmatch(item):
                raise wrong(item, "patterns of VG/LV with *, ? and [], as in vg0/scratch-*")
        return many(value)

    def name_pattern_list(value: Any) -> list[str]:
        for item in many(value):
            if "/" in item or not item.isprintable() or " " in item:
                raise wrong(item, "patterns of VM names with *, ? and [], as in test-*")
        return many(value)

    def command(value: Any) -> list[str]:
        found = many(value)
        if found and (not found[0].startswith("/") or not all(item.isprintable() for item in found)):
            raise wrong(value, "a program's absolute path and its arguments, separated by commas")
        return found

    def number_range(value: Any, min: str = "0", max: str = "0") -> list[int]:
        allowed = f"first and last of {min} to {max}, as in `{min}, {max}`"
        found = many(value)
        if len(found) != 2 or not all(str(item).strip().isdecimal() for item in found):
            raise wrong(value, allowed)
        first, last = (int(item) for item in found)
        if not int(min) <= first <= last <= int(max):
            raise wrong(value, allowed)
        return [first, last]

    def mail_address(value: Any) -> str:
        allowed = "a mail address, as in admin@example.org, or a local user"
        if not _MAIL_ADDRESS.fullmatch(text(value, allowed)):
            raise wrong(value, allowed)
        return str(value)

    def mail_address_or_empty(value: Any) -> str:
        return "" if value == "" else mail_address(value)

    def mail_address_list(value: Any) -> list[str]:
        return [mail_address(item) for item in many(value)]

    def path(value: Any) -> str:
        allowed = "an absolute path"
        if not text(value, allowed).startswith("/") or not value.isprintable():
            raise wrong(value, allowed)
        return str(value)

    def path_or_empty(value: Any) -> str:
        return "" if value == "" else path(value)

    def server_or_empty(value: Any) -> str:
        allowed = "HOST or HOST:PORT, as in mail.example.org:587"
        found = _SERVER.fullmatch(text(value, allowed))
        if value != "" and (not found or int(found["port"] or 1) not in range(1, 65536)):
            raise wrong(value, allowed)
        return str(value)

    def url_or_empty(value: Any) -> str:
        allowed = "a URL, as in https://example.org/alerts (with a comma in it: in quotes)"
        if value != "" and not _URL.fullmatch(text(value, allowed)):
            raise wrong(value, allowed)
        return str(value)

    def one_text(value: Any) -> str:
        allowed = "one line of text"
        if not text(value, allowed).isprintable():
            raise wrong(value, allowed)
        return str(value)

    def cpu_list(value: Any) -> str:
        found = ",".join(str(item).strip() for item in many(value))
        if found and not _CPUS.fullmatch(found):
            raise wrong(value, "numbers of CPUs and ranges of them, as in 0-1,4")
        return found

    def hour_range(value: Any) -> list[int]:
        allowed = "two hours of the day from 0 to 24, as in `1, 5`"
        found = many(value)
        if len(found) != 2 or not all(str(item).strip().isdecimal() for item in found):
            raise wrong(value, allowed)
        first, last = (int(item) for item in found)
        if not (0 <= first <= 23 and 0 <= last <= 24):
            raise wrong(value, allowed)
        return [first, last]

    def option(value: Any, *allowed: str) -> str:
        if value not in allowed:
            raise wrong(value, " or ".join(allowed))
        return str(value)

    def integer(value: Any, min: str = "0", max: str = "0") -> int:
        if not str(value).isdecimal() or not int(min) <= int(value) <= int(max):
            raise wrong(value, f"a whole number from {min} to {max}")
        return int(value)

    return Validator(
        {
            "host_name": host_name,
            "address": address,
            "address_or_empty": address_or_empty,
            "volume_group": volume_group,
            "volume_group_list": volume_group_list,
            "pattern_list": pattern_list,
            "name_pattern_list": name_pattern_list,
            "command": command,
            "number_range": number_range,
            "mail_address_or_empty": mail_address_or_empty,
            "mail_address_list": mail_address_list,
            "path": path,
            "path_or_empty": path_or_empty,
            "server_or_empty": server_or_empty,
            "url_or_empty": url_or_empty,
            "text": one_text,
            "cpu_list": cpu_list,
            "hour_range": hour_range,
            "option": option,
            "integer": integer,
        }
    )


# lvm(8), "valid names"
_VOLUME_GROUP = re.compile(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]{0,126}")
_CPUS = re.compile(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*")
_VOLUME_PATTERN = re.compile(r"[A-Za-z0-9_+.*?\[\]!-]+/[A-Za-z0-9_+.*?\[\]!-]+")
# what can be an argument of sendmail and stand in a header as it is
_MAIL_ADDRESS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=-]*(@[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)?")
_SERVER = re.compile(r"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:.]+\])(:(?P<port>[0-9]{1,5}))?")
_URL = re.compile(r"https?://[!-~]+")
