UPDATE outbox_messages SET status = 'pending' WHERE status = 'dead';
DROP INDEX outbox_dead_ids;
DROP INDEX outbox_dead;
ALTER TABLE outbox_messages DROP COLUMN failed_at;
ALTER TABLE outbox_messages DROP COLUMN error;
