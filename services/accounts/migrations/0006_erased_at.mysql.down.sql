ALTER TABLE users DROP KEY users_to_erase, DROP COLUMN erased_at;
