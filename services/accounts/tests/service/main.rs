//! The service as its users meet it: HTTP, queues, mail, a real database.

mod mailbox;
mod sign_up;
