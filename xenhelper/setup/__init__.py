"""``xenhelper setup PEER``: pairs two hosts.

``host`` reads what a host has, ``decide`` turns the facts of both into what each should
have, ``half`` makes one host so (there through ``remote``), ``sizes`` says what the next
creates will sync.
"""
