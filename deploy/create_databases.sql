-- PostgreSQL runs this once, when its volume is new.
CREATE DATABASE accounts;
CREATE DATABASE messages;
CREATE DATABASE notifications;
-- Profile one-postgres: all services in one database.
CREATE DATABASE posthaste_one;
