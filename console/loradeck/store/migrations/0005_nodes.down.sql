INSERT INTO meta SELECT 'nodes', json_group_object(name, json(body)) FROM nodes HAVING count(*) > 0;
DROP TABLE nodes;
DROP TABLE withdrawals;
