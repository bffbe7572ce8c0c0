//! Log lines and traces.

mod log_lines;
mod send_traces;
