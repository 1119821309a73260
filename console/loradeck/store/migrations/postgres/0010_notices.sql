-- What people are told outside the console, and the channels that have yet to be given it. `next_ms` NULL: given up.
CREATE TABLE notices (
    seq   bigint PRIMARY KEY,
    id    text NOT NULL UNIQUE,
    at_ms bigint NOT NULL,
    body  text NOT NULL
);
CREATE TABLE deliveries (
    seq      bigint NOT NULL,
    channel  text NOT NULL,
    attempts bigint NOT NULL,
    next_ms  bigint,
    error    text NOT NULL,
    PRIMARY KEY (seq, channel)
);
