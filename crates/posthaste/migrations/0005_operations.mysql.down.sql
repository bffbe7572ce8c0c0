SET @posthaste = IF((SELECT COUNT(*) FROM information_schema.statistics WHERE table_schema = DATABASE()
    AND table_name = 'inbox_messages' AND index_name = 'inbox_dead') > 0,
    'ALTER TABLE inbox_messages DROP KEY inbox_dead', 'DO 0');
PREPARE posthaste FROM @posthaste;
EXECUTE posthaste;
DEALLOCATE PREPARE posthaste;
DROP TABLE IF EXISTS inbox_holds;
DROP TABLE IF EXISTS ops_actions;
