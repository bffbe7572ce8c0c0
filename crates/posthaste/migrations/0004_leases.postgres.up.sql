ALTER TABLE leases
    ADD COLUMN ttl_micros BIGINT NOT NULL DEFAULT 10000000,
    ADD COLUMN inherited INTEGER NOT NULL DEFAULT 0;

-- Which service reads which sql: queue, so that every process can tell whose rows wait for nobody.
CREATE TABLE queue_readers (
    service VARCHAR(64) NOT NULL,
    queue   VARCHAR(255) NOT NULL,
    PRIMARY KEY (service, queue)
);
