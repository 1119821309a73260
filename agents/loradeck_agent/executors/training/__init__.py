"""Parts of the train executor: rows, templates, objectives, the loop and its checkpoints."""
