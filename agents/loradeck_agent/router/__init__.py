"""The router: tenant to release to engine, with a table that survives it. `python -m loradeck_agent.router`."""
