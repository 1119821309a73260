"""Access to the hub: who calls and what they may do, and how errors are reported."""
