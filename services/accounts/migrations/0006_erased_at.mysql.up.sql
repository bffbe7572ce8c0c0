-- When what messages said of a deleted user was blanked.
ALTER TABLE users ADD COLUMN erased_at DATETIME(6), ADD KEY users_to_erase (erased_at, deleted_at);
