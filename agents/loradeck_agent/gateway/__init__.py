"""The gateway: a router without an engine, which sends callers on to the nodes that serve them."""
