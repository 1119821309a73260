"""Worlds of pairs: traffic that proves a rule which moves a release back by pairs alone, and plain rules beside it.

A pair is one request that was answered by the release that is live and by the one beneath it, its prior.
"""
