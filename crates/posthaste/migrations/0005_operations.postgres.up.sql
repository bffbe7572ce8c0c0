-- Dead letters in the order in which they are listed and worked off, with the topic, which is counted by.
DROP INDEX inbox_dead;
CREATE INDEX inbox_dead ON inbox_messages (last_failed_at, message_id, subscription) INCLUDE (topic) WHERE status = 'dead';

-- What operators do: audit and job list in one.
CREATE TABLE ops_actions (
    id        UUID PRIMARY KEY,
    at        TIMESTAMPTZ NOT NULL,
    actor     VARCHAR(255) NOT NULL,
    address   VARCHAR(255),
    action    VARCHAR(64) NOT NULL,
    selection TEXT NOT NULL,
    reason    TEXT,
    total     BIGINT NOT NULL,
    done      BIGINT NOT NULL,
    failed    BIGINT NOT NULL,
    state     VARCHAR(16) NOT NULL
);
CREATE INDEX ops_actions_by_time ON ops_actions (at, id);

-- Subscriptions whose marks stay for now, because old messages are being read again.
CREATE TABLE inbox_holds (
    subscription VARCHAR(128) PRIMARY KEY,
    expires_at   TIMESTAMPTZ NOT NULL
);
