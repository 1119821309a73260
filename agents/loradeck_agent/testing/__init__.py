"""Simulated nodes and the small base model: for demos, tests and benchmarks, never for serving."""
