-- total_amount is text: SQLite's decimals are floats.
CREATE TABLE orders (
    order_id        TEXT NOT NULL PRIMARY KEY,
    user_id         TEXT NOT NULL,
    total_amount    TEXT NOT NULL,
    status          TEXT NOT NULL,
    idempotency_key TEXT UNIQUE NOT NULL,
    items           TEXT,
    failure_reason  TEXT,
    created_at      TEXT NOT NULL,
    updated_at      TEXT NOT NULL
);
CREATE INDEX orders_by_time ON orders (created_at, order_id);
CREATE INDEX orders_by_user ON orders (user_id, created_at, order_id);

-- Every key that has its outcome, also those of orders that were refused and have no row of their own.
CREATE TABLE order_keys (
    idempotency_key TEXT NOT NULL PRIMARY KEY,
    order_id        TEXT NOT NULL,
    message_id      TEXT NOT NULL,
    created_at      TEXT NOT NULL
) WITHOUT ROWID;
