"""`python -m tests.raters` prints the tables of docs/preferences.md."""

from tests.raters.simulated import covered_table, found_table

print("\n".join([*found_table(), "", *covered_table()]))
