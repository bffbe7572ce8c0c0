-- 'parked' becomes 'retrying' (it has a due time) or 'waiting' (behind the first row of its ordering key, due_at NULL).
-- Which subscriptions are ordered is not known here: all rows become 'retrying' with the due time they have, and the
-- retrier makes those behind another row wait at its first look.
-- due_in: microseconds from the moment due_at was set to due_at. alone_until: this row and those of its key up to
-- this number are handled alone, because one of them may have killed its worker.
ALTER TABLE inbox_messages ADD COLUMN due_in BIGINT, ADD COLUMN alone_until BIGINT;
DROP INDEX inbox_parked;
DROP INDEX inbox_parked_keys;
UPDATE inbox_messages SET status = 'retrying', alone_until = 0, due_at = COALESCE(due_at, clock_timestamp()) WHERE status = 'parked';
CREATE INDEX inbox_retrying ON inbox_messages (subscription, due_at) WHERE status = 'retrying';
CREATE INDEX inbox_retrying_keys ON inbox_messages (subscription, message_key, parked_seq) WHERE status = 'retrying';
CREATE INDEX inbox_waiting_keys ON inbox_messages (subscription, message_key, parked_seq) WHERE status = 'waiting';
