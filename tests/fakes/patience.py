"""How long a test waits for what has to come."""

PATIENCE_S = 60.0
"""Seconds: a guard against a hang, and no limit of what is tested. A test that passes does not use it up, whatever else
the machine does."""
