ALTER TABLE served DROP COLUMN refused;
ALTER TABLE served RENAME COLUMN failed TO errors;
ALTER TABLE served RENAME COLUMN finished TO requests;
