UPDATE outbox_messages SET status = 'pending' WHERE status = 'dead';
SET @step = IF(
    EXISTS (SELECT 1 FROM information_schema.columns
        WHERE table_schema = DATABASE() AND table_name = 'outbox_messages' AND column_name = 'failed_at'),
    'ALTER TABLE outbox_messages DROP COLUMN failed_at, DROP COLUMN error',
    'DO 0');
PREPARE step FROM @step;
EXECUTE step;
DEALLOCATE PREPARE step;
