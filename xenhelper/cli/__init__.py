"""The commands: one file each, named after it (``_`` for ``-``).

A command module has ``HELP`` (one line; empty hides it from the list),
``add_arguments(parser)`` and ``run(args) -> int``.
"""
