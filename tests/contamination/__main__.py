"""`python -m tests.contamination` prints the tables of docs/data.md, and what is found where nothing was copied."""

from tests.contamination import personal
from tests.contamination.recall import false_alarms, table

print("\n".join(table()))
print(false_alarms())
print("\n".join(personal.table()))
