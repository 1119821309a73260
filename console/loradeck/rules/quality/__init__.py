"""Rules of quality: gates and their statistics, reviews, signatures, and the health of live releases."""
