"""One screen for each list, and the help."""
