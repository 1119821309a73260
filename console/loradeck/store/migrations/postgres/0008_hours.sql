-- Requests of each route by the hour in which they were over, for what is usual there. `hour`: hours since 1970.
CREATE TABLE hours (
    tenant   text NOT NULL,
    route    text NOT NULL,
    hour     bigint NOT NULL,
    refused  bigint NOT NULL,
    failed   bigint NOT NULL,
    finished bigint NOT NULL,
    checked  bigint NOT NULL,
    bad      bigint NOT NULL,
    PRIMARY KEY (tenant, route, hour)
);
