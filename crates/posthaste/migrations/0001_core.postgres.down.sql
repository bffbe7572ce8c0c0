DROP TABLE outbox_messages;
DROP TABLE queue_messages;
DROP TABLE inbox_messages;
DROP TABLE leases;
DROP TABLE idempotency_keys;
DROP SEQUENCE inbox_parked_seq;
