-- What can never be sent, and why. No index of its own: there are no partial ones, one on all rows would cost every
-- message, and outbox_pending begins with the status. MySQL has no ADD COLUMN IF NOT EXISTS, and a step that was cut off
-- runs once more.
SET @step = IF(
    EXISTS (SELECT 1 FROM information_schema.columns
        WHERE table_schema = DATABASE() AND table_name = 'outbox_messages' AND column_name = 'failed_at'),
    'DO 0',
    'ALTER TABLE outbox_messages ADD COLUMN error TEXT, ADD COLUMN failed_at DATETIME(6)');
PREPARE step FROM @step;
EXECUTE step;
DEALLOCATE PREPARE step;
