DROP TABLE IF EXISTS queue_readers;
SET @step = IF(
    EXISTS (SELECT 1 FROM information_schema.columns
        WHERE table_schema = DATABASE() AND table_name = 'leases' AND column_name = 'inherited'),
    'ALTER TABLE leases DROP COLUMN ttl_micros, DROP COLUMN inherited',
    'DO 0');
PREPARE step FROM @step;
EXECUTE step;
DEALLOCATE PREPARE step;
