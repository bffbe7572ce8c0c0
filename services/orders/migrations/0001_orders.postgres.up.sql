CREATE TABLE orders (
    order_id        VARCHAR(255) PRIMARY KEY,
    user_id         VARCHAR(255) NOT NULL,
    total_amount    DECIMAL(10,2) NOT NULL,
    status          VARCHAR(50) NOT NULL,
    idempotency_key VARCHAR(255) UNIQUE NOT NULL,
    items           JSONB,
    failure_reason  TEXT,
    created_at      TIMESTAMPTZ NOT NULL,
    updated_at      TIMESTAMPTZ NOT NULL
);
CREATE INDEX orders_by_time ON orders (created_at, order_id);
CREATE INDEX orders_by_user ON orders (user_id, created_at, order_id);

-- Every key that has its outcome, also those of orders that were refused and have no row of their own.
CREATE TABLE order_keys (
    idempotency_key VARCHAR(255) PRIMARY KEY,
    order_id        VARCHAR(255) NOT NULL,
    message_id      UUID NOT NULL,
    created_at      TIMESTAMPTZ NOT NULL
);
