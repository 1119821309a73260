"""What the console knows: rows, lists, moves of its own, and what is selected. Knows no Textual."""
