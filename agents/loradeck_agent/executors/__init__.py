"""Executors: one child process per job, which may import torch and transformers."""
