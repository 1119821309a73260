"""The hub's durable store: written once in SQL, and a module for each database under it."""
