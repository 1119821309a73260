"""What consoles and monitors read of the hub: rows, the feed, related releases, traces and metrics."""
