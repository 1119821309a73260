"""The console's model: rows, lists, moves of its own, and the selection. Knows no Textual."""
