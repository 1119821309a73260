"""Jobs at the hub: the queue, promotion, gates, merges, checkpoints and logs."""
