"""The way up to the hub: the link, the table it sends, acknowledgements, and the hub's HTTP calls."""
