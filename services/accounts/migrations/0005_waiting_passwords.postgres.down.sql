DROP TABLE waiting_passwords;
