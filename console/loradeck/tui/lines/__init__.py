"""What each part of the screen shows, as styled lines. Knows no Textual."""
