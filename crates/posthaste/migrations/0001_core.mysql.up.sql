-- DDL commits by itself here: a step that was cut off runs once more, so everything is IF NOT EXISTS.
-- The collations tell letters' case and trailing blanks apart; what is in /*M! is read by MariaDB only,
-- in /*!80017 by MySQL only. There are no partial indexes: status stands first in those that need one.
CREATE TABLE IF NOT EXISTS outbox_messages (
    seq            BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    event_id       CHAR(36) NOT NULL,
    service        VARCHAR(64) NOT NULL,
    topic          VARCHAR(255) NOT NULL,
    event_type     VARCHAR(255) NOT NULL,
    aggregate_type VARCHAR(255),
    aggregate_id   VARCHAR(255),
    partition_no   INTEGER NOT NULL,
    message_key    TEXT,
    headers        LONGTEXT NOT NULL,
    body           LONGBLOB NOT NULL,
    correlation_id VARCHAR(128),
    causation_id   VARCHAR(64),
    status         VARCHAR(16) NOT NULL DEFAULT 'pending',
    due_at         DATETIME(6),
    created_at     DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    published_at   DATETIME(6),
    KEY outbox_pending (status, service, due_at, seq)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 /*M! COLLATE = utf8mb4_nopad_bin */ /*!80017 COLLATE = utf8mb4_0900_bin */;

CREATE TABLE IF NOT EXISTS queue_messages (
    seq          BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    topic        VARCHAR(255) NOT NULL,
    partition_no INTEGER NOT NULL DEFAULT 0,
    message_id   CHAR(36),
    event_type   VARCHAR(255),
    message_key  TEXT,
    headers      LONGTEXT,
    body         LONGBLOB NOT NULL,
    enqueued_at  DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    KEY queue_by_topic (topic, seq)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 /*M! COLLATE = utf8mb4_nopad_bin */ /*!80017 COLLATE = utf8mb4_0900_bin */;

CREATE TABLE IF NOT EXISTS inbox_messages (
    subscription    VARCHAR(128) NOT NULL,
    message_id      CHAR(36) NOT NULL,
    event_type      VARCHAR(255) NOT NULL,
    status          VARCHAR(16) NOT NULL,
    correlation_id  VARCHAR(128),
    received_at     DATETIME(6) NOT NULL,
    processed_at    DATETIME(6),
    topic           VARCHAR(255),
    message_key     VARCHAR(512),
    headers         LONGTEXT,
    body            LONGBLOB,
    attempts        INTEGER NOT NULL DEFAULT 0,
    due_at          DATETIME(6),
    parked_seq      BIGINT,
    first_failed_at DATETIME(6),
    last_failed_at  DATETIME(6),
    error           TEXT,
    PRIMARY KEY (subscription, message_id),
    KEY inbox_parked (status, due_at, parked_seq),
    KEY inbox_finished (status, processed_at),
    KEY inbox_parked_keys (status, subscription, message_key, parked_seq)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 /*M! COLLATE = utf8mb4_nopad_bin */ /*!80017 COLLATE = utf8mb4_0900_bin */;

CREATE TABLE IF NOT EXISTS leases (
    scope      VARCHAR(80) NOT NULL,
    slot       INTEGER NOT NULL,
    owner      CHAR(36),
    epoch      BIGINT NOT NULL DEFAULT 0,
    expires_at DATETIME(6) NOT NULL,
    PRIMARY KEY (scope, slot)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 /*M! COLLATE = utf8mb4_nopad_bin */ /*!80017 COLLATE = utf8mb4_0900_bin */;

CREATE TABLE IF NOT EXISTS idempotency_keys (
    scope           VARCHAR(128) NOT NULL,
    idempotency_key VARCHAR(255) NOT NULL,
    fingerprint     VARCHAR(64) NOT NULL,
    status          INTEGER NOT NULL DEFAULT 0,
    body            LONGBLOB,
    expires_at      DATETIME(6) NOT NULL,
    PRIMARY KEY (scope, idempotency_key),
    KEY idempotency_expiry (expires_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 /*M! COLLATE = utf8mb4_nopad_bin */ /*!80017 COLLATE = utf8mb4_0900_bin */;
