-- When what messages said of a deleted user was blanked.
ALTER TABLE users ADD COLUMN erased_at TEXT;
CREATE INDEX users_to_erase ON users (deleted_at) WHERE deleted_at IS NOT NULL AND erased_at IS NULL;
CREATE INDEX users_erased ON users (erased_at) WHERE erased_at IS NOT NULL;
