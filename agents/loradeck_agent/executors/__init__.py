"""Executors: one child process per job. torch, peft and transformers are imported here and in the engines only."""
