-- xid stands before seq: defaults are evaluated in column order, so a transaction has its id before it
-- takes a number, and a snapshot that sees no running transaction sees every lower number.
CREATE TABLE outbox_messages (
    xid            BIGINT NOT NULL DEFAULT (pg_current_xact_id()::text::bigint),
    seq            BIGSERIAL PRIMARY KEY,
    event_id       UUID NOT NULL,
    service        VARCHAR(64) NOT NULL,
    topic          VARCHAR(255) NOT NULL,
    event_type     VARCHAR(255) NOT NULL,
    aggregate_type VARCHAR(255),
    aggregate_id   VARCHAR(255),
    partition_no   INTEGER NOT NULL,
    message_key    TEXT,
    headers        TEXT NOT NULL,
    body           BYTEA NOT NULL,
    correlation_id VARCHAR(128),
    causation_id   VARCHAR(64),
    status         VARCHAR(16) NOT NULL DEFAULT 'pending',
    due_at         TIMESTAMPTZ,
    created_at     TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    published_at   TIMESTAMPTZ
);
CREATE INDEX outbox_pending ON outbox_messages (service, seq) WHERE status = 'pending' AND due_at IS NULL;
CREATE INDEX outbox_scheduled ON outbox_messages (due_at) WHERE status = 'pending' AND due_at IS NOT NULL;

CREATE TABLE queue_messages (
    xid          BIGINT NOT NULL DEFAULT (pg_current_xact_id()::text::bigint),
    seq          BIGSERIAL PRIMARY KEY,
    topic        VARCHAR(255) NOT NULL,
    partition_no INTEGER NOT NULL DEFAULT 0,
    message_id   UUID,
    event_type   VARCHAR(255),
    message_key  TEXT,
    headers      TEXT,
    body         BYTEA NOT NULL,
    enqueued_at  TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX queue_by_topic ON queue_messages (topic, seq);

CREATE SEQUENCE inbox_parked_seq;
CREATE TABLE inbox_messages (
    subscription    VARCHAR(128) NOT NULL,
    message_id      UUID NOT NULL,
    event_type      VARCHAR(255) NOT NULL,
    status          VARCHAR(16) NOT NULL,
    correlation_id  VARCHAR(128),
    received_at     TIMESTAMPTZ NOT NULL,
    processed_at    TIMESTAMPTZ,
    topic           VARCHAR(255),
    message_key     TEXT,
    headers         TEXT,
    body            BYTEA,
    attempts        INTEGER NOT NULL DEFAULT 0,
    due_at          TIMESTAMPTZ,
    parked_seq      BIGINT,
    first_failed_at TIMESTAMPTZ,
    last_failed_at  TIMESTAMPTZ,
    error           TEXT,
    PRIMARY KEY (subscription, message_id)
);
CREATE INDEX inbox_parked ON inbox_messages (subscription, due_at) WHERE status = 'parked';
CREATE INDEX inbox_parked_keys ON inbox_messages (subscription, message_key, parked_seq) WHERE status = 'parked';
CREATE INDEX inbox_finished ON inbox_messages (processed_at) WHERE status = 'processed';
CREATE INDEX inbox_dead ON inbox_messages (last_failed_at) WHERE status = 'dead';

CREATE TABLE leases (
    scope      VARCHAR(80) NOT NULL,
    slot       INTEGER NOT NULL,
    owner      UUID,
    epoch      BIGINT NOT NULL DEFAULT 0,
    expires_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (scope, slot)
);

CREATE TABLE idempotency_keys (
    scope           VARCHAR(128) NOT NULL,
    idempotency_key VARCHAR(255) NOT NULL,
    fingerprint     VARCHAR(64) NOT NULL,
    status          INTEGER NOT NULL DEFAULT 0,
    body            BYTEA,
    expires_at      TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (scope, idempotency_key)
);
CREATE INDEX idempotency_expiry ON idempotency_keys (expires_at);
