"""How soon a bad release is detected, and how often a good one is taken for bad (docs/detection.md)."""
