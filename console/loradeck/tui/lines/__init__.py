"""The parts of the screen as styled lines. Knows no Textual."""
