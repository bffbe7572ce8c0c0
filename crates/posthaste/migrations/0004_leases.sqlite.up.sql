ALTER TABLE leases ADD COLUMN ttl_micros INTEGER NOT NULL DEFAULT 10000000;
ALTER TABLE leases ADD COLUMN inherited INTEGER NOT NULL DEFAULT 0;

-- Which service reads which sql: queue, so that every process can tell whose rows wait for nobody.
CREATE TABLE queue_readers (
    service TEXT NOT NULL,
    queue   TEXT NOT NULL,
    PRIMARY KEY (service, queue)
) WITHOUT ROWID;
