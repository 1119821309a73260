DROP TABLE ledger_segments;
