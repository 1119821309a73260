"""The names of actions, the keys that ask for them, a person's own keys, and the commands typed after `:`."""
