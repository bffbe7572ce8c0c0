CREATE TABLE processed_events (
    id           TEXT NOT NULL PRIMARY KEY,
    user_id      TEXT NOT NULL,
    event_type   TEXT NOT NULL,
    message      TEXT NOT NULL,
    payload      TEXT,
    status       TEXT NOT NULL DEFAULT 'PROCESSED',
    created_at   TEXT NOT NULL,
    processed_at TEXT NOT NULL
);
CREATE INDEX processed_events_by_time ON processed_events (created_at, id);
CREATE INDEX processed_events_by_user ON processed_events (user_id, created_at, id);
