"""The console's own widgets. Each draws whole lines and repaints only those that changed."""
