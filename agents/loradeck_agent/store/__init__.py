"""Artifacts on this node: releases, inputs of jobs, checkpoints and merged weights."""
