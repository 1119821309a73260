"""Telemetry of a node: the sampler child that speaks NVML, and what watches it from the daemon."""
