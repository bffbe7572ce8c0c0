-- The hash of a password that came with a registration for an address that was another user's: it may be free by the
-- time the worker looks. It is in no message.
CREATE TABLE waiting_passwords (
    user_id       TEXT NOT NULL PRIMARY KEY,
    password_hash TEXT NOT NULL,
    created_at    TEXT NOT NULL
);
CREATE INDEX waiting_passwords_by_time ON waiting_passwords (created_at);
