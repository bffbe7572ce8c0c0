-- LONGTEXT rather than JSON: MariaDB's check refuses what is nested more than 32 deep.
CREATE TABLE IF NOT EXISTS messages (
    id           CHAR(36) NOT NULL PRIMARY KEY,
    message_id   CHAR(36) NOT NULL UNIQUE,
    content      LONGTEXT NOT NULL,
    sender       VARCHAR(255) NOT NULL,
    timestamp    DATETIME(6) NOT NULL,
    metadata     LONGTEXT,
    processed_at DATETIME(6) NOT NULL,
    created_at   DATETIME(6) NOT NULL,
    updated_at   DATETIME(6) NOT NULL,
    KEY messages_by_time (timestamp, message_id),
    KEY messages_by_sender (sender, timestamp, message_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 /*M! COLLATE = utf8mb4_nopad_bin */ /*!80017 COLLATE = utf8mb4_0900_bin */;
