-- See the PostgreSQL file. MySQL has no ADD COLUMN IF NOT EXISTS: a step that was cut off asks whether the table is
-- changed already, and the one ALTER changes all of it or nothing.
SET @step = IF(
    EXISTS (SELECT 1 FROM information_schema.columns
        WHERE table_schema = DATABASE() AND table_name = 'inbox_messages' AND column_name = 'due_in'),
    'DO 0',
    'ALTER TABLE inbox_messages ADD COLUMN due_in BIGINT, ADD COLUMN alone_until BIGINT,
        RENAME INDEX inbox_parked TO inbox_retrying, RENAME INDEX inbox_parked_keys TO inbox_keys');
PREPARE step FROM @step;
EXECUTE step;
DEALLOCATE PREPARE step;
UPDATE inbox_messages SET status = 'retrying', alone_until = 0, due_at = COALESCE(due_at, UTC_TIMESTAMP(6)) WHERE status = 'parked';
