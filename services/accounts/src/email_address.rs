//! One spelling for every way to write an e-mail address: the key by which a user is known.

use std::fmt;

/// The domain of addresses that nobody has; those of deleted users end in it.
const NOWHERE: &str = "invalid";

/// A canonical address: ASCII local part in lower case, domain as IDNA has it. Mail goes to exactly this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EmailAddress(String);

impl EmailAddress {
    /// The canonical form of `text`; blanks at its ends, which keyboards append, are no part of it.
    ///
    /// # Errors
    /// The broken rule, as a sentence without its subject. It quotes nothing of `text`.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let Some((local, domain)) = trim_blanks(text).rsplit_once('@') else {
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

/// `text` without blanks at its ends; line ends and other control characters are no blanks.
pub(crate) fn trim_blanks(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() && !c.is_control())
}

/// A dot-atom. Quoted local parts and comments are allowed by the standard and used by nobody but attackers;
/// without Unicode there are no two spellings of one name.
fn local_part(local: &str) -> Result<String, &'static str> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+/=?^_`{|}~-.".contains(&b);
    if local.is_empty() {
        return Err("must have a name before the @");
    }
    if local.len() > 64 {
        return Err("must have at most 64 characters before the @");
    }
    if !local.is_ascii() {
        return Err("must have only ASCII characters before the @");
    }
    if !local.bytes().all(allowed) {
        return Err("must have no blanks, quotes, brackets or commas before the @");
    }
    if local.split('.').any(str::is_empty) {
        return Err("must have no dot at the start or end of the name before the @, and no two in a row");
    }
    Ok(local.to_ascii_lowercase())
}

fn domain_part(domain: &str) -> Result<String, &'static str> {
    if domain.is_empty() {
        return Err("must have a domain after the @");
    }
    // Some of these the mapping would drop in silence. Joiners it keeps, and judges by their neighbours.
    if domain
        .chars()
        .any(|c| c.is_control() || is_invisible(c) && !is_joiner(c))
    {
        return Err("must not contain invisible characters");
    }
    let ascii = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if domain.starts_with('[') || domain.parse::<std::net::Ipv4Addr>().is_ok() {
        return Err("must have a domain after the @, not an IP address");
    }
    if !domain.chars().all(ascii) {
        return Err("must have only letters, digits, hyphens and dots after the @");
    }
    if domain.split('.').any(str::is_empty) {
        return Err("must have no dot at the start or end of the domain, and no two in a row");
    }
    if domain
        .split('.')
        .any(|label| label.starts_with('-') || label.ends_with('-'))
    {
        return Err("must have no hyphen at the start or end of a part of the domain");
    }
    if domain.split('.').any(|label| label.len() > 63 && label.is_ascii()) {
        return Err("must have at most 63 characters in each part of the domain");
    }
    let Ok(domain) = idna::domain_to_ascii_strict(domain) else {
        return Err("must have a domain after the @ that exists in the DNS's international form");
    };
    let mut labels = domain.rsplit('.');
    let top = labels.next().unwrap_or_default();
    if labels.next().is_none() {
        return Err("must have a domain with at least one dot after the @");
    }
    if !top.bytes().any(|b| b.is_ascii_alphabetic()) {
        return Err("must have a domain whose last part is no number");
    }
    if top == NOWHERE {
        return Err("must not be in the domain invalid, where nobody gets mail");
    }
    Ok(domain)
}

/// ZERO WIDTH NON-JOINER and ZERO WIDTH JOINER.
fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}')
}

/// Whether `text` has invisible characters other than joiners where a language needs them: between letters that join, as
/// in Persian, or behind a virama, as in Sinhala. The rule is that of international domain names (RFC 5892, CONTEXTJ).
pub(crate) fn hides_something(text: &str) -> bool {
    use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
    let joined_well = |word: &str| {
        let read = Uts46::new().to_ascii(word.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow, DnsLength::Ignore);
        read.is_ok()
    };
    let mut words = text.split(|c: char| c.is_whitespace() || c.is_ascii_punctuation());
    text.chars().any(|c| is_invisible(c) && !is_joiner(c))
        || words.any(|word| word.chars().any(is_joiner) && !joined_well(word))
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
            (" a@example.com\u{a0}", "a@example.com"),
            ("a@example.com ", "a@example.com"),
            (
                "a@\u{646}\u{627}\u{645}\u{647}\u{200c}\u{627}\u{6cc}.com",
                "a@xn--mgba3gch31f060k.com",
            ),
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
            "a@example.com\n",
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
    fn each_kind_of_fault_is_named() {
        let mut rules = Vec::new();
        for (text, told) in [
            ("a", "be an e-mail address"),
            ("@example.com", "a name before the @"),
            ("ü@example.com", "only ASCII"),
            ("a b@example.com", "no blanks"),
            ("a..b@example.com", "name before the @, and no two in a row"),
            ("a@", "a domain after the @"),
            ("a@ex\u{202e}ample.com", "invisible"),
            ("a@[127.0.0.1]", "not an IP address"),
            ("a@127.0.0.1", "not an IP address"),
            (
                "a@sub_domain.example.com",
                "only letters, digits, hyphens and dots after",
            ),
            ("a@exa mple.com", "only letters, digits, hyphens and dots after"),
            ("a@example.com.", "of the domain, and no two in a row"),
            ("a@-a.com", "no hyphen"),
            ("a@localhost", "at least one dot"),
            ("a@example.123", "last part is no number"),
            ("a@example.invalid", "where nobody gets mail"),
            ("a@x\u{200d}y.com", "international form"),
        ] {
            let rule = EmailAddress::parse(text).unwrap_err();
            assert!(rule.contains(told), "{text}: {rule}");
            rules.push(rule);
        }
        rules.dedup();
        assert_eq!(rules.len(), 15, "{rules:?}");
    }

    #[test]
    fn joiners_stand_where_a_language_needs_them() {
        for name in [
            "\u{639}\u{644}\u{6cc}\u{200c}\u{631}\u{636}\u{627}",
            "\u{639}\u{644}\u{6cc}\u{200c}\u{631}\u{636}\u{627} Tehrani-Smith",
            "\u{dc1}\u{dca}\u{200d}\u{dbb}\u{dd3}",
            "\u{915}\u{94d}\u{200d}\u{937}",
            "Ann O'Neil",
        ] {
            assert!(!hides_something(name), "{name:?}");
        }
        for name in [
            "A\u{200c}nn",
            "Ann\u{200d}",
            "\u{200c}",
            "\u{639}\u{200c}",
            "\u{1f468}\u{200d}\u{1f469}",
            "Ann\u{200b}",
            "A\u{ad}nn",
            "\u{639}\u{644}\u{6cc}\u{200c}\u{631} \u{202e}x",
        ] {
            assert!(hides_something(name), "{name:?}");
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
