-- LONGTEXT rather than JSON: MariaDB's check refuses what is nested more than 32 deep.
CREATE TABLE IF NOT EXISTS processed_events (
    id           CHAR(36) NOT NULL PRIMARY KEY,
    user_id      CHAR(36) NOT NULL,
    event_type   VARCHAR(100) NOT NULL,
    message      LONGTEXT NOT NULL,
    payload      LONGTEXT,
    status       VARCHAR(50) NOT NULL DEFAULT 'PROCESSED',
    created_at   DATETIME(6) NOT NULL,
    processed_at DATETIME(6) NOT NULL,
    KEY processed_events_by_time (created_at, id),
    KEY processed_events_by_user (user_id, created_at, id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 /*M! COLLATE = utf8mb4_nopad_bin */ /*!80017 COLLATE = utf8mb4_0900_bin */;
