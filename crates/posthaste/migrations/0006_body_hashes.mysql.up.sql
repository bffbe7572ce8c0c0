-- Half of a SHA-256 of the body: tells a repeat from another message of the same identity. NULL: from before.
-- MySQL has no ADD COLUMN IF NOT EXISTS, and this may run a second time.
SET @step = IF(
    EXISTS (SELECT 1 FROM information_schema.columns WHERE table_schema = DATABASE()
        AND table_name = 'inbox_messages' AND column_name = 'body_hash'),
    'DO 0',
    'ALTER TABLE inbox_messages ADD COLUMN body_hash VARBINARY(16)');
PREPARE step FROM @step;
EXECUTE step;
DEALLOCATE PREPARE step;
