"""Strangers: connections that have not shown a key yet, what they may cost, and who is dropped first."""
