"""The terminal: reading keys, writing frames, the clipboard, and the console's own log."""
