DROP TABLE IF EXISTS signing_turn;
