//! The ages at which rows are removed.

use std::time::Duration;

use posthaste::Tuning;

use super::{Config, ConfigError};

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Config {
    /// What engines are tuned with.
    ///
    /// # Errors
    /// When an age cannot be used.
    pub(crate) fn tuning(&self) -> Result<Tuning, ConfigError> {
        let inbox = self.days("INBOX_DAYS")?.ok_or_else(|| {
            ConfigError::refused("INBOX_DAYS=0: write at least 1; without its memory the inbox recognises no duplicate")
        })?;
        Ok(Tuning {
            keep_inbox: inbox,
            keep_outbox: self.days("OUTBOX_DAYS")?.unwrap_or(Duration::ZERO),
            keep_dead: self.days("DEAD_LETTER_DAYS")?,
            keep_unread: self.days("UNREAD_QUEUE_DAYS")?,
            ..Tuning::default()
        })
    }

    /// A number of days; `None` for 0.
    fn days(&self, name: &str) -> Result<Option<Duration>, ConfigError> {
        let text = self.settings.or_default(name).value;
        let days: u32 = text
            .parse()
            .map_err(|error| ConfigError::refused(format!("{name}={text}: write whole days ({error})")))?;
        Ok((days > 0).then_some(DAY * days))
    }
}
