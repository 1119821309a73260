"""`python -m tests.error_rates [NAME ...]` draws tables anew and writes them into docs; without a name, all of them."""

import sys

from tests.error_rates.tables import TABLES
from tests.error_rates.written import measured, write

for name, table in TABLES.items():
    if name in (sys.argv[1:] or TABLES):
        write(table, measured(table))
