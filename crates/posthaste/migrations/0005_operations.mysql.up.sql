-- DDL commits by itself here: a step that was cut off runs once more, so everything happens only where it is missing.
-- What operators do: audit and job list in one.
CREATE TABLE IF NOT EXISTS ops_actions (
    id        CHAR(36) NOT NULL PRIMARY KEY,
    at        DATETIME(6) NOT NULL,
    actor     VARCHAR(255) NOT NULL,
    address   VARCHAR(255),
    action    VARCHAR(64) NOT NULL,
    selection LONGTEXT NOT NULL,
    reason    TEXT,
    total     BIGINT NOT NULL,
    done      BIGINT NOT NULL,
    failed    BIGINT NOT NULL,
    state     VARCHAR(16) NOT NULL,
    KEY ops_actions_by_time (at, id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 /*M! COLLATE = utf8mb4_nopad_bin */ /*!80017 COLLATE = utf8mb4_0900_bin */;

-- Subscriptions whose marks stay for now, because old messages are being read again.
CREATE TABLE IF NOT EXISTS inbox_holds (
    subscription VARCHAR(128) NOT NULL PRIMARY KEY,
    expires_at   DATETIME(6) NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 /*M! COLLATE = utf8mb4_nopad_bin */ /*!80017 COLLATE = utf8mb4_0900_bin */;

-- Dead letters in the order in which they are listed and worked off. The subscription follows as a part of the primary
-- key. There are no partial indexes, so marks are in it, too, with no time.
SET @posthaste = IF((SELECT COUNT(*) FROM information_schema.statistics WHERE table_schema = DATABASE()
    AND table_name = 'inbox_messages' AND index_name = 'inbox_dead') = 0,
    'ALTER TABLE inbox_messages ADD KEY inbox_dead (status, last_failed_at, message_id)', 'DO 0');
PREPARE posthaste FROM @posthaste;
EXECUTE posthaste;
DEALLOCATE PREPARE posthaste;
