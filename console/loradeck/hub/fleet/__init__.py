"""The nodes: their links, the tables they are sent, and the acknowledgements and counts that they report."""
