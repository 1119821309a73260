"""Jobs on this node: leases, executors, prepares and their logs."""
