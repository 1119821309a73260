"""The rules: pure decisions without input, output, clock or randomness; the time is passed in as an argument.

A rule that forbids something raises `errors.Refused`, whose code is stable; the caller then changes nothing.
"""
