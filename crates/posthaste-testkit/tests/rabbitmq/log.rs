//! What the code under test logs, for tests whose subject is that it says something.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Begins to keep what this process logs.
pub fn start() -> Arc<Mutex<Vec<u8>>> {
    static LOG: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();
    let start = || {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::WARN)
            .with_writer(move || Writer(writer.clone()))
            .finish();
        tracing::subscriber::set_global_default(subscriber).expect("no other test sets it");
        lines
    };
    LOG.get_or_init(start).clone()
}

struct Writer(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The lines with all of `parts`.
pub fn lines_with(parts: &[&str]) -> Vec<String> {
    let log = start();
    let log = log.lock().unwrap_or_else(PoisonError::into_inner);
    let text = String::from_utf8_lossy(&log).into_owned();
    let found = text.lines().filter(|line| parts.iter().all(|part| line.contains(part)));
    found.map(str::to_owned).collect()
}
