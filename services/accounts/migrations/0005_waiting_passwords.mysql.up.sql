-- The hash of a password that came with a registration for an address that was another user's: it may be free by the
-- time the worker looks. It is in no message.
CREATE TABLE IF NOT EXISTS waiting_passwords (
    user_id       CHAR(36) NOT NULL PRIMARY KEY,
    password_hash VARCHAR(255) NOT NULL,
    created_at    DATETIME(6) NOT NULL,
    KEY waiting_passwords_by_time (created_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 /*M! COLLATE = utf8mb4_nopad_bin */ /*!80017 COLLATE = utf8mb4_0900_bin */;
