-- Bases that jobs have made before their lineage was recorded: it is known from the jobs.
INSERT INTO attestations (kind, subject, tenant, route, body, "by", at_ms)
SELECT
    'lineage',
    json_extract(body, '$.result.base'),
    json_extract(body, '$.spec.tenant'),
    NULL,
    json_object(
        'tenant', json_extract(body, '$.spec.tenant'),
        'job', id,
        'base', json_extract(body, '$.spec.base'),
        'datasets', json_extract(body, '$.spec.datasets'),
        'adapter', NULL
    ),
    'job ' || id,
    coalesce(json_extract(body, '$.ended_ms'), 0)
FROM jobs
WHERE json_extract(body, '$.state') = 'done'
    AND json_extract(body, '$.spec.kind') = 'train'
    AND json_extract(body, '$.spec.weights') = 'full'
    AND json_extract(body, '$.result.base') <> json_extract(body, '$.spec.base')
ORDER BY seq;
