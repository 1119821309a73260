DROP TABLE hours;
