-- Half of a SHA-256 of the body: tells a repeat from another message of the same identity. NULL: from before.
ALTER TABLE inbox_messages ADD COLUMN body_hash BLOB;
