CREATE TABLE messages (
    id           TEXT NOT NULL PRIMARY KEY,
    message_id   TEXT NOT NULL UNIQUE,
    content      TEXT NOT NULL,
    sender       TEXT NOT NULL,
    timestamp    TEXT NOT NULL,
    metadata     TEXT,
    processed_at TEXT NOT NULL,
    created_at   TEXT NOT NULL,
    updated_at   TEXT NOT NULL
);
CREATE INDEX messages_by_time ON messages (timestamp, message_id);
CREATE INDEX messages_by_sender ON messages (sender, timestamp, message_id);
