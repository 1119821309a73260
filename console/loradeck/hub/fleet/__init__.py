"""The nodes: their links, what each is told, what each acknowledges and counts."""
