"""The hub's HTTP calls under `/v1`, one module per resource."""
