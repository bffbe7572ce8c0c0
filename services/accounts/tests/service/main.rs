//! The service as its users meet it: HTTP, queues, mail, a real database.

mod collide;
mod guard_doors;
mod keep_secrets;
mod mailbox;
mod manage_users;
mod over_rabbitmq;
mod overload;
mod refuse_bad_input;
mod send_mail;
mod sign_up;
mod something_fails;
