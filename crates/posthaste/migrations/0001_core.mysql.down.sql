DROP TABLE IF EXISTS outbox_messages;
DROP TABLE IF EXISTS queue_messages;
DROP TABLE IF EXISTS inbox_messages;
DROP TABLE IF EXISTS leases;
DROP TABLE IF EXISTS idempotency_keys;
