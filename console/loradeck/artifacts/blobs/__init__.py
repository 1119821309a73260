"""Blobs: files that a hub keeps under the SHA-256 of their content, in a folder of its own or in an object store."""
