-- One row: whoever makes a signing key changes it first, so that one is made at a time.
CREATE TABLE signing_turn (
    id    INTEGER NOT NULL PRIMARY KEY,
    turns BIGINT NOT NULL
);

INSERT INTO signing_turn (id, turns) VALUES (1, 0);
