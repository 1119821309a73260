"""Rules of quality: gates and their statistics, reviews, signatures, and whether a live release is bad."""
