"""Start and recovery of a hub: what it waits for and takes over from its nodes before it may move anything."""
