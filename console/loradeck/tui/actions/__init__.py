"""Handlers of keys and typed text, and the way from an action to a question or a request."""
