ALTER TABLE inbox_messages DROP COLUMN body_hash;
