"""Types that travel between Loradeck's processes. They import nothing of ours outside this package."""
