-- Dead letters in the order in which they are listed and worked off,
-- with the topic, which is counted by.
DROP INDEX inbox_dead;
CREATE INDEX inbox_dead ON inbox_messages (last_failed_at, message_id, subscription, topic) WHERE status = 'dead';

-- What operators do: audit and job list in one.
CREATE TABLE ops_actions (
    id        TEXT PRIMARY KEY,
    at        TEXT NOT NULL,
    actor     TEXT NOT NULL,
    address   TEXT,
    action    TEXT NOT NULL,
    selection TEXT NOT NULL,
    reason    TEXT,
    total     INTEGER NOT NULL,
    done      INTEGER NOT NULL,
    failed    INTEGER NOT NULL,
    state     TEXT NOT NULL
);
CREATE INDEX ops_actions_by_time ON ops_actions (at, id);

-- Subscriptions whose marks stay for now, because old messages are being read again.
CREATE TABLE inbox_holds (
    subscription TEXT PRIMARY KEY,
    expires_at   TEXT NOT NULL
) WITHOUT ROWID;
