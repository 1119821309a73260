"""Checks of keys that move something: act at once, ask, or refuse, by what was seen on the terminal."""
