DROP TABLE inbox_holds;
DROP TABLE ops_actions;
DROP INDEX inbox_dead;
CREATE INDEX inbox_dead ON inbox_messages (last_failed_at) WHERE status = 'dead';
