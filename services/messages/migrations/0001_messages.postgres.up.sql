CREATE TABLE messages (
    id           UUID PRIMARY KEY,
    message_id   UUID NOT NULL UNIQUE,
    content      TEXT NOT NULL,
    sender       VARCHAR(255) NOT NULL,
    timestamp    TIMESTAMPTZ NOT NULL,
    metadata     JSONB,
    processed_at TIMESTAMPTZ NOT NULL,
    created_at   TIMESTAMPTZ NOT NULL,
    updated_at   TIMESTAMPTZ NOT NULL
);
CREATE INDEX messages_by_time ON messages (timestamp, message_id);
CREATE INDEX messages_by_sender ON messages (sender, timestamp, message_id);
