//! The service as its users meet it: HTTP, queues, mail, a real database.

#[macro_use]
#[path = "../stage/on_databases.rs"]
mod on_databases;
#[path = "../stage/mod.rs"]
#[expect(dead_code, reason = "shared with the tests that need the rest of it")]
mod stage;

mod collide;
mod confuse_text;
mod erase_users;
mod guard_doors;
mod keep_secrets;
mod mailbox;
mod manage_users;
mod name_people;
mod over_rabbitmq;
mod overload;
mod probe_doors;
mod refuse_bad_input;
mod send_mail;
mod sign_up;
mod something_fails;

const STACK: stage::Stack = stage::Stack::Embedded;
