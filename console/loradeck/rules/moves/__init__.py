"""Rules of moves: where a pointer may go, which event that makes, and how the log adds up to pointers."""
