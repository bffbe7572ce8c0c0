-- A session is a family of refresh tokens. generation counts them; rotated_at is when the newest was made.
CREATE TABLE sessions (
    id             TEXT NOT NULL PRIMARY KEY,
    user_id        TEXT NOT NULL,
    generation     INTEGER NOT NULL,
    rotated_at     TEXT NOT NULL,
    grace_hits     INTEGER NOT NULL,
    idle_until     TEXT NOT NULL,
    absolute_until TEXT NOT NULL,
    revoked_at     TEXT,
    revoked_reason TEXT,
    user_agent     TEXT,
    ip             TEXT,
    created_at     TEXT NOT NULL,
    last_used_at   TEXT NOT NULL
);
CREATE INDEX sessions_by_user ON sessions (user_id, created_at);
CREATE INDEX sessions_by_end ON sessions (absolute_until);

-- Spent ones stay until their session's end, so that one that comes again is recognised.
CREATE TABLE refresh_tokens (
    token_hash TEXT NOT NULL PRIMARY KEY,
    session_id TEXT NOT NULL,
    generation INTEGER NOT NULL
);
CREATE INDEX refresh_tokens_by_session ON refresh_tokens (session_id);

-- Access tokens that were logged out; until they would have ended anyway.
CREATE TABLE revoked_tokens (
    token_id   TEXT NOT NULL PRIMARY KEY,
    expires_at TEXT NOT NULL
);
CREATE INDEX revoked_tokens_by_end ON revoked_tokens (expires_at);

-- One row for each user: what was asked for last is the only one that counts.
CREATE TABLE reset_tokens (
    user_id      TEXT NOT NULL PRIMARY KEY,
    token_hash   TEXT UNIQUE,
    requested_at TEXT NOT NULL,
    expires_at   TEXT NOT NULL
);

-- sealed_key opens with the secret of the process that made it, which is not in this database.
CREATE TABLE signing_keys (
    kid         TEXT NOT NULL PRIMARY KEY,
    public_key  TEXT NOT NULL,
    sealed_key  TEXT NOT NULL,
    active_from TEXT NOT NULL,
    retires_at  TEXT,
    revoked_at  TEXT
);

CREATE TABLE rate_limits (
    bucket      TEXT NOT NULL PRIMARY KEY,
    used        INTEGER NOT NULL,
    window_ends TEXT NOT NULL
);
CREATE INDEX rate_limits_by_end ON rate_limits (window_ends);

-- account is a hash of the address, of users and of nobody alike.
CREATE TABLE login_attempts (
    account       TEXT NOT NULL PRIMARY KEY,
    failures      INTEGER NOT NULL,
    in_row        INTEGER NOT NULL,
    last_at       TEXT NOT NULL,
    blocked_until TEXT NOT NULL
);
CREATE INDEX login_attempts_by_time ON login_attempts (last_at);
