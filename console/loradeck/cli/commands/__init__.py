"""The commands of `loradeck`, one module for each noun, or for a few that belong together."""
