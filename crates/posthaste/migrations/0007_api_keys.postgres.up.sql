-- Keys of programs. A key itself is nowhere: only the SHA-256 of its 256 random bits, in hex.
CREATE TABLE api_keys (
    id         UUID PRIMARY KEY,
    key_hash   VARCHAR(64) NOT NULL UNIQUE,
    name       VARCHAR(100) NOT NULL,
    scopes     VARCHAR(1000) NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ,
    revoked_at TIMESTAMPTZ
);
