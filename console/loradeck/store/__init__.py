"""The hub's durable store: one interface, one module per backend."""
