-- email is the canonical address: one row for each, however it was written.
CREATE TABLE IF NOT EXISTS users (
    id                      CHAR(36) NOT NULL PRIMARY KEY,
    email                   VARCHAR(255) UNIQUE NOT NULL,
    first_name              VARCHAR(100) NOT NULL,
    last_name               VARCHAR(100) NOT NULL,
    bio                     TEXT,
    is_active               BOOLEAN NOT NULL,
    role                    VARCHAR(20) NOT NULL,
    password_hash           VARCHAR(255),
    verification_state      VARCHAR(20) NOT NULL,
    verification_hash       VARCHAR(64) UNIQUE,
    verification_expires_at DATETIME(6),
    onboarded_at            DATETIME(6),
    notified_at             DATETIME(6),
    deleted_at              DATETIME(6),
    version                 BIGINT NOT NULL,
    last_login              DATETIME(6),
    created_at              DATETIME(6) NOT NULL,
    updated_at              DATETIME(6) NOT NULL,
    KEY users_by_time (created_at, id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 /*M! COLLATE = utf8mb4_nopad_bin */ /*!80017 COLLATE = utf8mb4_0900_bin */;

-- Rows are only ever added.
CREATE TABLE IF NOT EXISTS audit_events (
    id             CHAR(36) NOT NULL PRIMARY KEY,
    at             DATETIME(6) NOT NULL,
    action         VARCHAR(64) NOT NULL,
    actor          VARCHAR(255),
    user_id        CHAR(36),
    ip             VARCHAR(64),
    user_agent     VARCHAR(255),
    correlation_id VARCHAR(255),
    detail         TEXT,
    KEY audit_events_by_user (user_id, at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 /*M! COLLATE = utf8mb4_nopad_bin */ /*!80017 COLLATE = utf8mb4_0900_bin */;
