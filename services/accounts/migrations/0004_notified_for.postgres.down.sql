ALTER TABLE users DROP COLUMN notified_for;
