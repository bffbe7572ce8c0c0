DROP INDEX users_erased;
DROP INDEX users_to_erase;
ALTER TABLE users DROP COLUMN erased_at;
