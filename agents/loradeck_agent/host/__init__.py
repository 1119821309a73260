"""The host: configuration, the state folder, child processes, secrets and HTTP."""
