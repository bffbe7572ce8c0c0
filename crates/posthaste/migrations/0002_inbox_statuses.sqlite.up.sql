-- See the PostgreSQL file.
ALTER TABLE inbox_messages ADD COLUMN due_in INTEGER;
ALTER TABLE inbox_messages ADD COLUMN alone_until INTEGER;
DROP INDEX inbox_parked;
DROP INDEX inbox_parked_keys;
UPDATE inbox_messages SET status = 'retrying', alone_until = 0, due_at = COALESCE(due_at, strftime('%Y-%m-%dT%H:%M:%f000Z','now'))
    WHERE status = 'parked';
CREATE INDEX inbox_retrying ON inbox_messages (subscription, due_at) WHERE status = 'retrying';
CREATE INDEX inbox_retrying_keys ON inbox_messages (subscription, message_key, parked_seq) WHERE status = 'retrying';
CREATE INDEX inbox_waiting_keys ON inbox_messages (subscription, message_key, parked_seq) WHERE status = 'waiting';
