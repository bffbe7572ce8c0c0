DROP TABLE queue_readers;
ALTER TABLE leases DROP COLUMN ttl_micros;
ALTER TABLE leases DROP COLUMN inherited;
