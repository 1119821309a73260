"""The commands of `loradeck`, one module a noun."""
