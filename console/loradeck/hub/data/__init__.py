"""Data at the hub: datasets, erasure of rows, and garbage collection of files."""
