DROP TABLE signing_turn;
