"""One screen for each list, and the pages of a job and of a review."""
