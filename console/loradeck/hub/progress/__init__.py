"""The progress of moves: where acknowledgements and requests are counted, and what follows from the counts."""
