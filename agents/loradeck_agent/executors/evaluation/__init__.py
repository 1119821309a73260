"""Parts of the evaluate executor: greedy answers and how they are scored."""
