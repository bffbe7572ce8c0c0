//! One spelling for every way to write an e-mail address: the key by which a user is known.

use std::fmt;

/// The domain of addresses that nobody has; those of deleted users end in it.
const NOWHERE: &str = "invalid";

/// A canonical address: ASCII local part in lower case, domain as IDNA has it. Mail goes to exactly this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EmailAddress(String);

impl EmailAddress {
    /// The canonical form of `text`.
    ///
    /// # Errors
    /// The broken rule, as a sentence without its subject. It quotes nothing of `text`.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let Some((local, domain)) = text.rsplit_once('@') else {
            return Err("must be an e-mail address");
        };
        let local = local_part(local)?;
        let domain = domain_part(domain)?;
        if local.len() + 1 + domain.len() > 254 {
            return Err("must have at most 254 characters");
        }
        Ok(Self(format!("{local}@{domain}")))
    }

    /// An address that nobody has, for what is none.
    pub fn nobody() -> Self {
        Self(format!("nobody@{NOWHERE}"))
    }

    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the `@`.
    pub fn local(&self) -> &str {
        self.0.split('@').next().unwrap_or_default()
    }
}

impl fmt::Display for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A dot-atom. Quoted local parts and comments are allowed by the standard and used by nobody but attackers;
/// without Unicode there are no two spellings of one name.
fn local_part(local: &str) -> Result<String, &'static str> {
    let atom = |atom: &str| {
        !atom.is_empty()
            && atom
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+/=?^_`{|}~-".contains(&b))
    };
    if local.len() > 64 {
        return Err("must have at most 64 characters before the @");
    }
    if !local.split('.').all(atom) {
        return Err("must have only letters, digits and single dots before the @, all of them ASCII");
    }
    Ok(local.to_ascii_lowercase())
}

fn domain_part(domain: &str) -> Result<String, &'static str> {
    const WRONG: &str = "must have a domain with at least one dot after the @";
    // Some of these the mapping would drop in silence.
    if domain.chars().any(|c| c.is_control() || is_invisible(c)) || domain.ends_with('.') {
        return Err(WRONG);
    }
    let Ok(domain) = idna::domain_to_ascii_strict(domain) else {
        return Err(WRONG);
    };
    let mut labels = domain.rsplit('.');
    let top = labels.next().unwrap_or_default();
    let named = top.bytes().any(|b| b.is_ascii_alphabetic());
    if labels.next().is_none() || !named || top == NOWHERE {
        return Err(WRONG);
    }
    Ok(domain)
}

/// Characters without a shape of their own and those that turn the direction of writing.
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> Option<String> {
        EmailAddress::parse(text).ok().map(|address| address.0)
    }

    #[test]
    fn every_spelling_is_one_address() {
        for (text, wanted) in [
            ("A@X.com", "a@x.com"),
            ("a@x.COM", "a@x.com"),
            ("First.Last+tag@Example.org", "first.last+tag@example.org"),
            (
                "o'neil_!#$%&*/=?^`{|}~-@a-b.example",
                "o'neil_!#$%&*/=?^`{|}~-@a-b.example",
            ),
            ("a@bücher.example", "a@xn--bcher-kva.example"),
            ("a@bu\u{308}cher.example", "a@xn--bcher-kva.example"),
            ("a@XN--BCHER-KVA.example", "a@xn--bcher-kva.example"),
            ("a@\u{ff45}\u{ff58}ample.com", "a@example.com"),
            ("a@\u{212a}elvin.com", "a@kelvin.com"),
        ] {
            assert_eq!(canonical(text).as_deref(), Some(wanted), "{text}");
        }
    }

    #[test]
    fn what_looks_alike_is_another_address_or_none() {
        assert_ne!(canonical("a@ex\u{430}mple.com"), canonical("a@example.com"));
        assert_ne!(canonical("a@g\u{131}thub.com"), canonical("a@github.com"));
        for text in [
            "m\u{131}ke@example.org",
            "\u{212a}ate@example.org",
            "\u{ff41}@example.org",
        ] {
            assert_eq!(canonical(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("{}@example.com", "a".repeat(65));
        let longer = format!("a@{}.com", "b".repeat(60).repeat(5));
        let longest = format!("{}@{}.com", "a".repeat(64), ["b".repeat(60).as_str(); 4].join("."));
        for text in [
            "",
            "a",
            "@",
            "a@",
            "@example.com",
            "a@localhost",
            "a@example.com.",
            "a@.com",
            "a@a..com",
            ".a@example.com",
            "a.@example.com",
            "a..b@example.com",
            "a b@example.com",
            "a@b@example.com",
            "\"a\"@example.com",
            "a(c)@example.com",
            "a@[127.0.0.1]",
            "a@127.0.0.1",
            "a@-a.com",
            "a@exa mple.com",
            "a@ex\u{200b}ample.com",
            "a@ex\u{202e}ample.com",
            "a\0@example.com",
            "a@example.com\0",
            "a@example.com\r\nBcc: b@example.com",
            "a\u{200d}@example.com",
            " a@example.com",
            "a@example.com ",
            "a@x.invalid",
            "a@under_score.com",
            &long,
            &longer,
            &longest,
        ] {
            assert_eq!(canonical(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_longest_ones_fit() {
        let local = "a".repeat(64);
        let domain = format!("{}.{}.{}.com", "b".repeat(60), "c".repeat(60), "d".repeat(60));
        let text = format!("{local}@{domain}");
        assert!(text.len() <= 254 && canonical(&text).is_some());
        assert_eq!(canonical(&text).map(|text| text.len()), Some(text.len()));
    }
}
