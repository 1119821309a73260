CREATE TABLE lease (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    epoch  INTEGER NOT NULL,
    holder TEXT NOT NULL
) STRICT;
INSERT INTO lease SELECT 1, epoch, name FROM head;
DROP TABLE head;
DROP TABLE incarnations;
