//! The binary under load while it or its database is killed: every acknowledged event ends as one row.

mod load;
mod process;

mod kill_process;
mod lose_database;
mod lose_network;
mod run_two_processes;
