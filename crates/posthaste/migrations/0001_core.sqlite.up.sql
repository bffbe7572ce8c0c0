-- AUTOINCREMENT: a number is never used again, although the rows of a queue are deleted.
CREATE TABLE outbox_messages (
    seq            INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id       TEXT NOT NULL,
    service        TEXT NOT NULL,
    topic          TEXT NOT NULL,
    event_type     TEXT NOT NULL,
    aggregate_type TEXT,
    aggregate_id   TEXT,
    partition_no   INTEGER NOT NULL,
    message_key    TEXT,
    headers        TEXT NOT NULL,
    body           BLOB NOT NULL,
    correlation_id TEXT,
    causation_id   TEXT,
    status         TEXT NOT NULL DEFAULT 'pending',
    due_at         TEXT,
    created_at     TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z','now')),
    published_at   TEXT
);
CREATE INDEX outbox_pending ON outbox_messages (service, seq) WHERE status = 'pending' AND due_at IS NULL;
CREATE INDEX outbox_scheduled ON outbox_messages (due_at) WHERE status = 'pending' AND due_at IS NOT NULL;

CREATE TABLE queue_messages (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    topic        TEXT NOT NULL,
    partition_no INTEGER NOT NULL DEFAULT 0,
    message_id   TEXT,
    event_type   TEXT,
    message_key  TEXT,
    headers      TEXT,
    body         BLOB NOT NULL,
    enqueued_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z','now'))
);
CREATE INDEX queue_by_topic ON queue_messages (topic, seq);

CREATE TABLE inbox_messages (
    subscription    TEXT NOT NULL,
    message_id      TEXT NOT NULL,
    event_type      TEXT NOT NULL,
    status          TEXT NOT NULL,
    correlation_id  TEXT,
    received_at     TEXT NOT NULL,
    processed_at    TEXT,
    topic           TEXT,
    message_key     TEXT,
    headers         TEXT,
    body            BLOB,
    attempts        INTEGER NOT NULL DEFAULT 0,
    due_at          TEXT,
    parked_seq      INTEGER,
    first_failed_at TEXT,
    last_failed_at  TEXT,
    error           TEXT,
    PRIMARY KEY (subscription, message_id)
) WITHOUT ROWID;
CREATE INDEX inbox_parked ON inbox_messages (subscription, due_at) WHERE status = 'parked';
CREATE INDEX inbox_parked_keys ON inbox_messages (subscription, message_key, parked_seq) WHERE status = 'parked';
CREATE INDEX inbox_parked_order ON inbox_messages (parked_seq) WHERE parked_seq IS NOT NULL;
CREATE INDEX inbox_finished ON inbox_messages (processed_at) WHERE status = 'processed';
CREATE INDEX inbox_dead ON inbox_messages (last_failed_at) WHERE status = 'dead';

CREATE TABLE leases (
    scope      TEXT NOT NULL,
    slot       INTEGER NOT NULL,
    owner      TEXT,
    epoch      INTEGER NOT NULL DEFAULT 0,
    expires_at TEXT NOT NULL,
    PRIMARY KEY (scope, slot)
) WITHOUT ROWID;

CREATE TABLE idempotency_keys (
    scope           TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    fingerprint     TEXT NOT NULL,
    status          INTEGER NOT NULL DEFAULT 0,
    body            BLOB,
    expires_at      TEXT NOT NULL,
    PRIMARY KEY (scope, idempotency_key)
) WITHOUT ROWID;
CREATE INDEX idempotency_expiry ON idempotency_keys (expires_at);
