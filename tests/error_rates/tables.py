"""All tables, by their names."""

from tests.error_rates.arms import AB_TABLE, STEPS_TABLE
from tests.error_rates.judges import JUDGE_TABLE
from tests.error_rates.leaks import CONTINUATIONS_TABLE, LEAK_TABLE
from tests.error_rates.pairs import PAIRS_TABLE
from tests.error_rates.tails import TAILS_TABLE
from tests.error_rates.written import Summed, Table

_ALL: tuple[Table | Summed, ...] = (
    PAIRS_TABLE,
    LEAK_TABLE,
    CONTINUATIONS_TABLE,
    JUDGE_TABLE,
    TAILS_TABLE,
    STEPS_TABLE,
    AB_TABLE,
)
TABLES = {table.name: table for table in _ALL}
