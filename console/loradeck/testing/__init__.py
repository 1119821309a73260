"""A simulated fleet on a real hub: for demos, tests and benchmarks, never for serving."""
