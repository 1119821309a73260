DROP TABLE input_days;
