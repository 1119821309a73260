"""The commands of `loradeck`, one module for each noun."""
