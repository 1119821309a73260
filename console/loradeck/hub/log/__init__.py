"""The log at the hub: committed events, what they add up to, and the registry and facts beside them."""
