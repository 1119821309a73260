"""The hub's durable memory: one interface, one module per backend."""
