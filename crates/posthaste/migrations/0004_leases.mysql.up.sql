-- Which service reads which sql: queue, so that every process can tell whose rows wait for nobody.
CREATE TABLE IF NOT EXISTS queue_readers (
    service VARCHAR(64) NOT NULL,
    queue   VARCHAR(255) NOT NULL,
    PRIMARY KEY (service, queue)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 /*M! COLLATE = utf8mb4_nopad_bin */ /*!80017 COLLATE = utf8mb4_0900_bin */;

-- Runs once more after a step that was cut off; MySQL has no ADD COLUMN IF NOT EXISTS.
SET @step = IF(
    EXISTS (SELECT 1 FROM information_schema.columns
        WHERE table_schema = DATABASE() AND table_name = 'leases' AND column_name = 'inherited'),
    'DO 0',
    'ALTER TABLE leases ADD COLUMN ttl_micros BIGINT NOT NULL DEFAULT 10000000, ADD COLUMN inherited INTEGER NOT NULL DEFAULT 0');
PREPARE step FROM @step;
EXECUTE step;
DEALLOCATE PREPARE step;
