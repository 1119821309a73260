"""Engines that answer requests under a base + adapter. The embedded one lives here; vLLM is its own program."""
