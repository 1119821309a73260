"""Rows of datasets, suites and the answer ledger: their formats, their provenance, and searches and scans of them."""
