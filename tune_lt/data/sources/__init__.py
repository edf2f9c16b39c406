"""Readers of data sets, one module each; `tune_lt.data` registers them."""
