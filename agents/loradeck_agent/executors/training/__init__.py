"""Parts of the train executor: rows, chat templates, objectives, the training loop and its checkpoints."""
