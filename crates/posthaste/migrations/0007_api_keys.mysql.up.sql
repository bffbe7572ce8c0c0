-- Keys of programs. A key itself is nowhere: only the SHA-256 of its 256 random bits, in hex.
CREATE TABLE IF NOT EXISTS api_keys (
    id         CHAR(36) NOT NULL PRIMARY KEY,
    key_hash   VARCHAR(64) NOT NULL,
    name       VARCHAR(100) NOT NULL,
    scopes     VARCHAR(1000) NOT NULL,
    created_at DATETIME(6) NOT NULL,
    expires_at DATETIME(6),
    revoked_at DATETIME(6),
    UNIQUE KEY api_key_hashes (key_hash)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 /*M! COLLATE = utf8mb4_nopad_bin */ /*!80017 COLLATE = utf8mb4_0900_bin */;
