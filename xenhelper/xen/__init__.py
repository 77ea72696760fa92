"""Xen: xenstore, domains, VM configurations, the toolstack's contract."""
