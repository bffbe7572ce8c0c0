-- One row: whoever makes a signing key changes it first, so that one is made at a time.
CREATE TABLE IF NOT EXISTS signing_turn (
    id    INTEGER NOT NULL PRIMARY KEY,
    turns BIGINT NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 /*M! COLLATE = utf8mb4_nopad_bin */ /*!80017 COLLATE = utf8mb4_0900_bin */;

INSERT IGNORE INTO signing_turn (id, turns) VALUES (1, 0);
