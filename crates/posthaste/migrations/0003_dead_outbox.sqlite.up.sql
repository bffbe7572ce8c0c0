-- What can never be sent, and why.
ALTER TABLE outbox_messages ADD COLUMN error TEXT;
ALTER TABLE outbox_messages ADD COLUMN failed_at TEXT;
CREATE INDEX outbox_dead ON outbox_messages (failed_at, event_id) WHERE status = 'dead';
CREATE INDEX outbox_dead_ids ON outbox_messages (event_id) WHERE status = 'dead';
