"""Styled text without a toolkit: spans, themes, sparklines, plots and line editing."""
