"""How often rules that judge data and releases are wrong: the tables of several pages of docs, and their tests."""
