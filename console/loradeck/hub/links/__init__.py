"""The links to the nodes, from hello to loss: what is sent on them, and what the hub waits for when it starts."""
