DROP TABLE login_attempts;
DROP TABLE rate_limits;
DROP TABLE signing_keys;
DROP TABLE reset_tokens;
DROP TABLE revoked_tokens;
DROP TABLE refresh_tokens;
DROP TABLE sessions;
