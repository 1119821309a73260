"""Parts that the commands share: options, output, errors, names and the connection to the hub."""
