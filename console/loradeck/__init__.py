"""Loradeck: the hub, its client, the console and the command line of an operations console for LoRA adapters."""
