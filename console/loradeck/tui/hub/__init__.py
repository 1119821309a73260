"""The console's side of the hub: its connection, queries, and moves on their way."""
