"""The embedded engine: transformers and LoRA in one process, behind the engine contract."""
