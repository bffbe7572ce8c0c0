-- LONGTEXT rather than JSON: MySQL would make floats of its numbers, MariaDB refuses what is nested more than 32 deep.
CREATE TABLE IF NOT EXISTS orders (
    order_id        VARCHAR(255) NOT NULL PRIMARY KEY,
    user_id         VARCHAR(255) NOT NULL,
    total_amount    DECIMAL(10,2) NOT NULL,
    status          VARCHAR(50) NOT NULL,
    idempotency_key VARCHAR(255) UNIQUE NOT NULL,
    items           LONGTEXT,
    failure_reason  TEXT,
    created_at      DATETIME(6) NOT NULL,
    updated_at      DATETIME(6) NOT NULL,
    KEY orders_by_time (created_at, order_id),
    KEY orders_by_user (user_id, created_at, order_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 /*M! COLLATE = utf8mb4_nopad_bin */ /*!80017 COLLATE = utf8mb4_0900_bin */;

-- Every key that has its outcome, also those of orders that were refused and have no row of their own.
CREATE TABLE IF NOT EXISTS order_keys (
    idempotency_key VARCHAR(255) NOT NULL PRIMARY KEY,
    order_id        VARCHAR(255) NOT NULL,
    message_id      CHAR(36) NOT NULL,
    created_at      DATETIME(6) NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 /*M! COLLATE = utf8mb4_nopad_bin */ /*!80017 COLLATE = utf8mb4_0900_bin */;
