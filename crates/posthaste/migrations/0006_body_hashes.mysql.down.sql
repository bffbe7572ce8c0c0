SET @step = IF(
    EXISTS (SELECT 1 FROM information_schema.columns WHERE table_schema = DATABASE()
        AND table_name = 'inbox_messages' AND column_name = 'body_hash'),
    'ALTER TABLE inbox_messages DROP COLUMN body_hash',
    'DO 0');
PREPARE step FROM @step;
EXECUTE step;
DEALLOCATE PREPARE step;
