-- A session is a family of refresh tokens. generation counts them; rotated_at is when the newest was made.
CREATE TABLE IF NOT EXISTS sessions (
    id             CHAR(36) NOT NULL PRIMARY KEY,
    user_id        CHAR(36) NOT NULL,
    generation     BIGINT NOT NULL,
    rotated_at     DATETIME(6) NOT NULL,
    grace_hits     BIGINT NOT NULL,
    idle_until     DATETIME(6) NOT NULL,
    absolute_until DATETIME(6) NOT NULL,
    revoked_at     DATETIME(6),
    revoked_reason VARCHAR(32),
    user_agent     VARCHAR(255),
    ip             VARCHAR(64),
    created_at     DATETIME(6) NOT NULL,
    last_used_at   DATETIME(6) NOT NULL,
    KEY sessions_by_user (user_id, created_at),
    KEY sessions_by_end (absolute_until)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 /*M! COLLATE = utf8mb4_nopad_bin */ /*!80017 COLLATE = utf8mb4_0900_bin */;

-- Spent ones stay until their session's end, so that one that comes again is recognised.
CREATE TABLE IF NOT EXISTS refresh_tokens (
    token_hash VARCHAR(64) NOT NULL PRIMARY KEY,
    session_id CHAR(36) NOT NULL,
    generation BIGINT NOT NULL,
    KEY refresh_tokens_by_session (session_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 /*M! COLLATE = utf8mb4_nopad_bin */ /*!80017 COLLATE = utf8mb4_0900_bin */;

-- Access tokens that were logged out; until they would have ended anyway.
CREATE TABLE IF NOT EXISTS revoked_tokens (
    token_id   CHAR(36) NOT NULL PRIMARY KEY,
    expires_at DATETIME(6) NOT NULL,
    KEY revoked_tokens_by_end (expires_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 /*M! COLLATE = utf8mb4_nopad_bin */ /*!80017 COLLATE = utf8mb4_0900_bin */;

-- One row for each user: what was asked for last is the only one that counts.
CREATE TABLE IF NOT EXISTS reset_tokens (
    user_id      CHAR(36) NOT NULL PRIMARY KEY,
    token_hash   VARCHAR(64) UNIQUE,
    requested_at DATETIME(6) NOT NULL,
    expires_at   DATETIME(6) NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 /*M! COLLATE = utf8mb4_nopad_bin */ /*!80017 COLLATE = utf8mb4_0900_bin */;

-- sealed_key opens with the secret of the process that made it, which is not in this database.
CREATE TABLE IF NOT EXISTS signing_keys (
    kid         VARCHAR(64) NOT NULL PRIMARY KEY,
    public_key  VARCHAR(64) NOT NULL,
    sealed_key  TEXT NOT NULL,
    active_from DATETIME(6) NOT NULL,
    retires_at  DATETIME(6),
    revoked_at  DATETIME(6)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 /*M! COLLATE = utf8mb4_nopad_bin */ /*!80017 COLLATE = utf8mb4_0900_bin */;

CREATE TABLE IF NOT EXISTS rate_limits (
    bucket      VARCHAR(128) NOT NULL PRIMARY KEY,
    used        BIGINT NOT NULL,
    window_ends DATETIME(6) NOT NULL,
    KEY rate_limits_by_end (window_ends)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 /*M! COLLATE = utf8mb4_nopad_bin */ /*!80017 COLLATE = utf8mb4_0900_bin */;

-- account is a hash of the address, of users and of nobody alike.
CREATE TABLE IF NOT EXISTS login_attempts (
    account       VARCHAR(64) NOT NULL PRIMARY KEY,
    failures      BIGINT NOT NULL,
    in_row        BIGINT NOT NULL,
    last_at       DATETIME(6) NOT NULL,
    blocked_until DATETIME(6) NOT NULL,
    KEY login_attempts_by_time (last_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 /*M! COLLATE = utf8mb4_nopad_bin */ /*!80017 COLLATE = utf8mb4_0900_bin */;
