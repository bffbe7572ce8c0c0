DROP TABLE IF EXISTS login_attempts;
DROP TABLE IF EXISTS rate_limits;
DROP TABLE IF EXISTS signing_keys;
DROP TABLE IF EXISTS reset_tokens;
DROP TABLE IF EXISTS revoked_tokens;
DROP TABLE IF EXISTS refresh_tokens;
DROP TABLE IF EXISTS sessions;
