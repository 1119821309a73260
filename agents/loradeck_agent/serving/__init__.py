"""Serving on this node: engines and their lives, what they have loaded, canaries and proof."""
