"""Rules of moves: where a pointer may go, the event that a move makes, and how the log folds to pointers and
tenants.
"""
