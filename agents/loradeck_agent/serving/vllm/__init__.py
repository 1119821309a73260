"""vLLM as an engine of a node: its command line, its HTTP calls beside the engine contract, and our plugin in it."""
