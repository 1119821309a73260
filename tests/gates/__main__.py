"""`python -m tests.gates` prints the tables of docs/gates.md."""

from tests.gates.rates import chains, single

print("\n".join((*single(), "", *chains())))
