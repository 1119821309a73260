"""What becomes of keys, moves, questions and typed text."""
