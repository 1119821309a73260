"""Styled text without a toolkit: spans, sparklines, plots and line editing."""
