"""Notices: what the hub tells people outside the console, and how it reaches them."""
