"""How often gates stop what is good and pass what is not: the tables of docs/gates.md, and their test."""
