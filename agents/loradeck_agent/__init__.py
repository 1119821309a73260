"""The agent of a GPU host: daemon, router, engines, executors."""

__version__ = "0.1.0"
