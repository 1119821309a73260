"""Simulated nodes: for demos, tests and benchmarks, never for serving."""
