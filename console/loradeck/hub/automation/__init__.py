"""Automation: what the hub moves by itself, by the rules that a route has chosen."""
