DROP TABLE IF EXISTS waiting_passwords;
