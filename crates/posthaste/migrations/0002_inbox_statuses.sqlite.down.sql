DROP INDEX inbox_retrying;
DROP INDEX inbox_retrying_keys;
DROP INDEX inbox_waiting_keys;
UPDATE inbox_messages SET status = 'parked', due_at = COALESCE(due_at, strftime('%Y-%m-%dT%H:%M:%f000Z','now'))
    WHERE status IN ('retrying', 'waiting');
CREATE INDEX inbox_parked ON inbox_messages (subscription, due_at) WHERE status = 'parked';
CREATE INDEX inbox_parked_keys ON inbox_messages (subscription, message_key, parked_seq) WHERE status = 'parked';
ALTER TABLE inbox_messages DROP COLUMN due_in;
ALTER TABLE inbox_messages DROP COLUMN alone_until;
