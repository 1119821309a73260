"""The hub: the only writer of the log, and what everybody else lists and watches."""
