UPDATE inbox_messages SET status = 'parked', due_at = COALESCE(due_at, UTC_TIMESTAMP(6)) WHERE status IN ('retrying', 'waiting');
SET @step = IF(
    EXISTS (SELECT 1 FROM information_schema.columns
        WHERE table_schema = DATABASE() AND table_name = 'inbox_messages' AND column_name = 'due_in'),
    'ALTER TABLE inbox_messages DROP COLUMN due_in, DROP COLUMN alone_until,
        RENAME INDEX inbox_retrying TO inbox_parked, RENAME INDEX inbox_keys TO inbox_parked_keys',
    'DO 0');
PREPARE step FROM @step;
EXECUTE step;
DEALLOCATE PREPARE step;
