"""Parts of the merge executor."""
