-- email is the canonical address: one row for each, however it was written.
CREATE TABLE users (
    id                      UUID PRIMARY KEY,
    email                   VARCHAR(255) UNIQUE NOT NULL,
    first_name              VARCHAR(100) NOT NULL,
    last_name               VARCHAR(100) NOT NULL,
    bio                     TEXT,
    is_active               BOOLEAN NOT NULL,
    role                    VARCHAR(20) NOT NULL,
    password_hash           VARCHAR(255),
    verification_state      VARCHAR(20) NOT NULL,
    verification_hash       VARCHAR(64) UNIQUE,
    verification_expires_at TIMESTAMPTZ,
    onboarded_at            TIMESTAMPTZ,
    notified_at             TIMESTAMPTZ,
    deleted_at              TIMESTAMPTZ,
    version                 BIGINT NOT NULL,
    last_login              TIMESTAMPTZ,
    created_at              TIMESTAMPTZ NOT NULL,
    updated_at              TIMESTAMPTZ NOT NULL
);
CREATE INDEX users_by_time ON users (created_at, id);

-- Rows are only ever added.
CREATE TABLE audit_events (
    id             UUID PRIMARY KEY,
    at             TIMESTAMPTZ NOT NULL,
    action         VARCHAR(64) NOT NULL,
    actor          VARCHAR(255),
    user_id        UUID,
    ip             VARCHAR(64),
    user_agent     VARCHAR(255),
    correlation_id VARCHAR(255),
    detail         TEXT
);
CREATE INDEX audit_events_by_user ON audit_events (user_id, at);
