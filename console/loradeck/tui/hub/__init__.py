"""The console's side of the hub: queries, moves on their way, and what it follows."""
