"""Talking to a hub: where it is, its calls, and its feed. Knows nothing of Textual, the store or the rules."""
