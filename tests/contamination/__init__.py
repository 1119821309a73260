"""How many items of suites are found among training rows, whatever was done to them: the table of docs/data.md."""
