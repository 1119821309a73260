"""Rules of data: what may be trained on, what descends from it, and which releases are related."""
