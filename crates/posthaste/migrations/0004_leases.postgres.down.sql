DROP TABLE queue_readers;
ALTER TABLE leases DROP COLUMN ttl_micros, DROP COLUMN inherited;
