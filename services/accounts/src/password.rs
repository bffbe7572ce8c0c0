//! Which passwords are taken: long ones that neither a list nor the account itself gives away.

use std::fmt;

use serde::{Deserialize, Deserializer};
use unicode_normalization::UnicodeNormalization;

use crate::block_passwords::is_common;
use crate::email_address::EmailAddress;

/// Fewest code points, as NIST SP 800-63B-4 asks for where the password is the only factor.
pub(crate) const SHORTEST: usize = 15;
/// Most code points.
pub(crate) const LONGEST: usize = 256;

/// More code points than this have no normal form of [`LONGEST`] or fewer: none is composed of more than four.
const TYPED: usize = 4 * LONGEST;

/// A password as it was given, in the normal form NFC; never shown, not even by `{:?}`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Password(String);

/// Why a password is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WeakPassword {
    /// For machines.
    pub kind: &'static str,
    /// A sentence without its subject.
    pub msg: &'static str,
}

impl Password {
    /// The password that `text` is.
    pub fn new(text: &str) -> Self {
        // It is too long in any form, and whoever sends it has not been counted yet.
        if text.chars().nth(TYPED).is_some() {
            return Self(text.to_owned());
        }
        Self(text.nfc().collect())
    }

    /// What is hashed.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Whether it is longer than any password that was ever taken: no hash needs to be computed then.
    pub fn is_too_long(&self) -> bool {
        self.0.chars().count() > LONGEST
    }

    /// Whether it may be the password of the account `email`.
    ///
    /// # Errors
    /// The broken rule.
    pub fn check(&self, email: Option<&EmailAddress>) -> Result<(), WeakPassword> {
        let refuse = |kind, msg| Err(WeakPassword { kind, msg });
        let length = self.0.chars().count();
        if length < SHORTEST {
            return refuse("too_short", "must have at least 15 characters");
        }
        if length > LONGEST {
            return refuse("too_long", "must have at most 256 characters");
        }
        if is_common(&self.0) {
            return refuse("password_blocked", "is among the passwords that are tried first");
        }
        let letters = letters(&self.0);
        let local = email.map(|email| plain(email.local()));
        let given_away = [local.as_deref().unwrap_or_default(), "posthaste"];
        let contains = |name: &&str| {
            let backwards: String = name.chars().rev().collect();
            name.len() >= 4
                && letters
                    .iter()
                    .any(|text| text.contains(*name) || text.contains(&backwards))
        };
        if given_away.iter().any(contains) {
            return refuse(
                "password_similar",
                "must not contain the e-mail address or the name of this service",
            );
        }
        Ok(())
    }
}

/// Its letters and digits in lower case: as they stand, and with the digits read as the letters they resemble.
fn letters(text: &str) -> [String; 2] {
    [plain(text), plain(&read_digits(text))]
}

fn plain(text: &str) -> String {
    text.chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect()
}

/// `p4ssw0rd` as `password`.
pub(crate) fn read_digits(text: &str) -> String {
    let read = |c| match c {
        '0' => 'o',
        '1' | '!' => 'i',
        '3' => 'e',
        '4' | '@' => 'a',
        '5' | '$' => 's',
        '7' => 't',
        other => other,
    };
    text.chars().map(read).collect()
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(***)")
    }
}

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::new(&String::deserialize(deserializer)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(text: &str, email: &str) -> Option<&'static str> {
        let email = EmailAddress::parse(email).ok();
        Password::new(text).check(email.as_ref()).err().map(|weak| weak.kind)
    }

    #[test]
    fn code_points_are_counted_after_composition() {
        let at = |n: u32| {
            let text: String = (0..n)
                .filter_map(|i| char::from_u32(0x4e00 + i * i * 7 % 5000))
                .collect();
            verdict(&text, "a@b.example")
        };
        assert_eq!(at(14), Some("too_short"));
        for n in [15, 64, 256] {
            assert_eq!(at(n), None, "{n}");
        }
        assert_eq!(at(257), Some("too_long"));
        // Fourteen characters however many code points they were typed with.
        assert_eq!(verdict(&"xe\u{301}".repeat(7), "a@b.example"), Some("too_short"));
        assert_eq!(Password::new("e\u{301}"), Password::new("\u{e9}"));
        // Four code points that are one, as often as is allowed and once more.
        let typed = |n: usize| Password::new(&"\u{3b1}\u{313}\u{300}\u{345}".repeat(n));
        assert!(!typed(LONGEST).is_too_long() && typed(LONGEST + 1).is_too_long());
        assert_eq!(typed(LONGEST).as_bytes(), "\u{1f82}".repeat(LONGEST).as_bytes());
    }

    #[test]
    fn no_kinds_of_characters_are_asked_for() {
        for text in [
            "qmxvtzrkwbnpfhsldgjc",
            "plumber otter vivid canal",
            "\u{1f642} \u{1f643} \u{1f642} \u{1f418} \u{1f643} \u{1f418} \u{1f335} \u{1f98a}",
            "  x  \u{1f9ed}  y  \u{1f642}  z",
        ] {
            assert_eq!(verdict(text, "a@b.example"), None, "{text}");
        }
    }

    #[test]
    fn the_address_and_the_service_give_a_password_away() {
        for text in [
            "alicesmith123456",
            "99-Alice.Smith-99",
            "xx4l1c3sm1thxx99",
            "htimsecila-7183-q",
            "my PostHaste login",
        ] {
            assert_eq!(
                verdict(text, "alice.smith@b.example"),
                Some("password_similar"),
                "{text}"
            );
        }
        assert_eq!(
            verdict("a vivid otter canal", "a@b.example"),
            None,
            "a short name is in every password"
        );
    }

    #[test]
    fn nothing_shows_it() {
        assert_eq!(format!("{:?}", Password::new("a vivid otter canal")), "Password(***)");
    }
}
