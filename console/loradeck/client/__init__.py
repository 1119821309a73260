"""The client of a hub: where it is, its calls, and its feed. Imports no Textual and no store."""
