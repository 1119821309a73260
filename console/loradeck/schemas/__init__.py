"""Types that travel between Loradeck's processes. They import nothing of Loradeck outside this package."""
