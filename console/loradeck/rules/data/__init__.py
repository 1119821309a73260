"""Rules of data: which rows may be trained on, their descendants, and which releases are related."""
