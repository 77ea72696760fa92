"""``xl create``'s command line, read as xl's own getopt does (main_create in xl_vmcontrol.c,
main in xl.c; 4.17 and 4.20 alike), without importing anything."""

# short options of `create`; those with a value have a colon (optstring "AFVcdef:inpq")
_SHORT = "AFVcdef:inpq"
# long options; True: takes a value
_LONG = {
    "defconfig": True,
    "dryrun": False,
    "ignore-global-affinity-masks": False,
    "quiet": False,
    "vncviewer": False,
    "vncviewer-autopass": False,
    "help": False,
}
_GLOBAL = "vftTN"


class Create:
    """A ``create`` to look into. ``config`` as typed, ``overrides`` in their order."""

    __slots__ = ("config", "overrides", "quiet")

    def __init__(self, config: str, overrides: "list[str]", quiet: bool) -> None:
        self.config = config
        self.overrides = overrides
        self.quiet = quiet


def parse(argv: "list[str]", permute: bool = True) -> "Create | None":
    """``argv`` is what follows ``xl``. None: xl deals with it alone (a dry run, help, a
    usage error, no config file). ``permute``: False under POSIXLY_CORRECT, as getopt(3)."""
    at = 0
    while at < len(argv) and argv[at].startswith("-") and argv[at] != "-":
        if argv[at] == "--":
            at += 1
            break
        if any(letter not in _GLOBAL for letter in argv[at][1:]) or "N" in argv[at]:
            return None
        at += 1
    if at >= len(argv):
        return None
    return _command(argv[at + 1 :], permute)


def _command(rest: "list[str]", permute: bool) -> "Create | None":
    config = ""
    if rest and not rest[0].startswith("-") and "=" not in rest[0]:
        config, rest = rest[0], rest[1:]
    options, words = _getopt(rest, permute)
    if options is None:
        return None
    quiet = False
    for name, value in options:
        if name in ("n", "h"):
            return None
        if name == "f":
            config = value
        quiet = quiet or name == "q"
    overrides = []
    for word in words:
        if "=" in word:
            overrides.append(word)
        elif not config:
            config = word
        else:
            return None
    return Create(config, overrides, quiet) if config else None


def _getopt(rest: "list[str]", permute: bool) -> "tuple[list[tuple[str, str]] | None, list[str]]":
    """getopt_long's reading: (option letter, value) pairs, None on an error, and the rest."""
    options: "list[tuple[str, str]]" = []
    words: "list[str]" = []
    letters = {"dryrun": "n", "defconfig": "f", "quiet": "q", "help": "h"}
    at = 0
    while at < len(rest):
        word = rest[at]
        at += 1
        if word == "--":
            return options, words + rest[at:]
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            long = _long(name)
            if long is None or (equals and not _LONG[long]):
                return None, []
            if _LONG[long] and not equals:
                if at >= len(rest):
                    return None, []
                value = rest[at]
                at += 1
            options.append((letters.get(long, long), value))
        elif word.startswith("-") and word != "-":
            letter_at = 1
            while letter_at < len(word):
                letter = word[letter_at]
                letter_at += 1
                where = _SHORT.find(letter)
                if where < 0 or letter == ":":
                    return ([("h", "")], []) if letter == "h" else (None, [])
                if _SHORT[where + 1 : where + 2] != ":":
                    options.append((letter, ""))
                    continue
                value = word[letter_at:]
                if not value:
                    if at >= len(rest):
                        return None, []
                    value = rest[at]
                    at += 1
                options.append((letter, value))
                break
        elif permute:
            words.append(word)
        else:
            return options, words + rest[at - 1 :]
    return options, words


def _long(name: str) -> "str | None":
    """The long option that ``name`` is, or unambiguously begins."""
    if name in _LONG:
        return name
    found = [option for option in _LONG if option.startswith(name)]
    return found[0] if len(found) == 1 else None
