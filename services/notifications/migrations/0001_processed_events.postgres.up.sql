CREATE TABLE processed_events (
    id           UUID PRIMARY KEY,
    user_id      UUID NOT NULL,
    event_type   VARCHAR(100) NOT NULL,
    message      TEXT NOT NULL,
    payload      JSONB,
    status       VARCHAR(50) NOT NULL DEFAULT 'PROCESSED',
    created_at   TIMESTAMPTZ NOT NULL,
    processed_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX processed_events_by_time ON processed_events (created_at, id);
CREATE INDEX processed_events_by_user ON processed_events (user_id, created_at, id);
