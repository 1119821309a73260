"""Every order of a few moves, takeovers and messages, over the product's own rules."""
