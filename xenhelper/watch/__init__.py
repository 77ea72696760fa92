"""xenhelper-watch.service: what should be noticed without anybody asking."""
