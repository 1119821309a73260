"""What may act: the key bindings, the decision on a key, questions, and which frames were seen."""
