-- email is the canonical address: one row for each, however it was written.
CREATE TABLE users (
    id                      TEXT NOT NULL PRIMARY KEY,
    email                   TEXT UNIQUE NOT NULL,
    first_name              TEXT NOT NULL,
    last_name               TEXT NOT NULL,
    bio                     TEXT,
    is_active               BOOLEAN NOT NULL,
    role                    TEXT NOT NULL,
    password_hash           TEXT,
    verification_state      TEXT NOT NULL,
    verification_hash       TEXT UNIQUE,
    verification_expires_at TEXT,
    onboarded_at            TEXT,
    notified_at             TEXT,
    deleted_at              TEXT,
    version                 INTEGER NOT NULL,
    last_login              TEXT,
    created_at              TEXT NOT NULL,
    updated_at              TEXT NOT NULL
);
CREATE INDEX users_by_time ON users (created_at, id);

-- Rows are only ever added.
CREATE TABLE audit_events (
    id             TEXT NOT NULL PRIMARY KEY,
    at             TEXT NOT NULL,
    action         TEXT NOT NULL,
    actor          TEXT,
    user_id        TEXT,
    ip             TEXT,
    user_agent     TEXT,
    correlation_id TEXT,
    detail         TEXT
);
CREATE INDEX audit_events_by_user ON audit_events (user_id, at);
