-- The message whose mail was the last one under `notified_at`: it may be sent again.
ALTER TABLE users ADD COLUMN notified_for CHAR(36);
