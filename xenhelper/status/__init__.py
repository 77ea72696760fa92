"""``xenhelper status``: ``read`` looks at this host and asks the peers, ``judge`` makes
the contract's JSON and its problems of it, ``text`` shows that by VM."""
