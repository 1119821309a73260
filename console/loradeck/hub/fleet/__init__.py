"""The nodes as the hub knows them: state, tables, and the sockets under their links."""
