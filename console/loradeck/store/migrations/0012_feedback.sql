-- What callers say of answers. `tied`: what vouches for the request; empty: nothing yet. `body`: schemas.feedback.Feedback.
CREATE TABLE feedback (
    n       INTEGER PRIMARY KEY,
    tenant  TEXT NOT NULL,
    request TEXT NOT NULL,
    kind    TEXT NOT NULL,
    caller  TEXT NOT NULL,
    at_ms   INTEGER NOT NULL,
    tied    TEXT NOT NULL,
    body    TEXT NOT NULL,
    UNIQUE (tenant, request, kind, caller)
) STRICT;
CREATE INDEX feedback_time ON feedback (tenant, at_ms);
CREATE INDEX feedback_waiting ON feedback (n) WHERE tied = '';
