-- A session is a family of refresh tokens. generation counts them; rotated_at is when the newest was made.
CREATE TABLE sessions (
    id             UUID PRIMARY KEY,
    user_id        UUID NOT NULL,
    generation     BIGINT NOT NULL,
    rotated_at     TIMESTAMPTZ NOT NULL,
    grace_hits     BIGINT NOT NULL,
    idle_until     TIMESTAMPTZ NOT NULL,
    absolute_until TIMESTAMPTZ NOT NULL,
    revoked_at     TIMESTAMPTZ,
    revoked_reason VARCHAR(32),
    user_agent     VARCHAR(255),
    ip             VARCHAR(64),
    created_at     TIMESTAMPTZ NOT NULL,
    last_used_at   TIMESTAMPTZ NOT NULL
);
CREATE INDEX sessions_by_user ON sessions (user_id, created_at);
CREATE INDEX sessions_by_end ON sessions (absolute_until);

-- Spent ones stay until their session's end, so that one that comes again is recognised.
CREATE TABLE refresh_tokens (
    token_hash VARCHAR(64) PRIMARY KEY,
    session_id UUID NOT NULL,
    generation BIGINT NOT NULL
);
CREATE INDEX refresh_tokens_by_session ON refresh_tokens (session_id);

-- Access tokens that were logged out; until they would have ended anyway.
CREATE TABLE revoked_tokens (
    token_id   UUID PRIMARY KEY,
    expires_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX revoked_tokens_by_end ON revoked_tokens (expires_at);

-- One row for each user: what was asked for last is the only one that counts.
CREATE TABLE reset_tokens (
    user_id      UUID PRIMARY KEY,
    token_hash   VARCHAR(64) UNIQUE,
    requested_at TIMESTAMPTZ NOT NULL,
    expires_at   TIMESTAMPTZ NOT NULL
);

-- sealed_key opens with the secret of the process that made it, which is not in this database.
CREATE TABLE signing_keys (
    kid         VARCHAR(64) PRIMARY KEY,
    public_key  VARCHAR(64) NOT NULL,
    sealed_key  TEXT NOT NULL,
    active_from TIMESTAMPTZ NOT NULL,
    retires_at  TIMESTAMPTZ,
    revoked_at  TIMESTAMPTZ
);

CREATE TABLE rate_limits (
    bucket      VARCHAR(128) PRIMARY KEY,
    used        BIGINT NOT NULL,
    window_ends TIMESTAMPTZ NOT NULL
);
CREATE INDEX rate_limits_by_end ON rate_limits (window_ends);

-- account is a hash of the address, of users and of nobody alike.
CREATE TABLE login_attempts (
    account       VARCHAR(64) PRIMARY KEY,
    failures      BIGINT NOT NULL,
    in_row        BIGINT NOT NULL,
    last_at       TIMESTAMPTZ NOT NULL,
    blocked_until TIMESTAMPTZ NOT NULL
);
CREATE INDEX login_attempts_by_time ON login_attempts (last_at);
