"""What keys and commands do."""
