-- What callers say of answers. `tied`: what vouches for the request; empty: nothing yet. `body`: schemas.feedback.Feedback.
CREATE TABLE feedback (
    n       bigint PRIMARY KEY,
    tenant  text NOT NULL,
    request text NOT NULL,
    kind    text NOT NULL,
    caller  text NOT NULL,
    at_ms   bigint NOT NULL,
    tied    text NOT NULL,
    body    text NOT NULL,
    UNIQUE (tenant, request, kind, caller)
);
CREATE INDEX feedback_time ON feedback (tenant, at_ms);
CREATE INDEX feedback_waiting ON feedback (n) WHERE tied = '';
