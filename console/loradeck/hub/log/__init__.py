"""The hub's log and what is kept beside it: events, facts, the registry, and what changed for whoever watches."""
