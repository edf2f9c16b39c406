"""Carrying out a search: which trials are tried, which are stopped, which one is chosen."""
