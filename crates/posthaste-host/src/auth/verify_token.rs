//! Access tokens: signed JWTs of exactly one shape (RFC 9068 with EdDSA). What another library would offer to
//! configure is not there to be configured: one algorithm, one type, a closed set of header members and claims.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::read_bearer::LONGEST;
use crate::config::Settings;

/// How far two clocks may be apart, in seconds.
pub(crate) const LEEWAY: i64 = 5;
/// No token of ours lasts longer, in seconds.
const LONGEST_LIFE: i64 = 3600;
const ALGORITHM: &str = "EdDSA";
const TYPE: &str = "at+jwt";
const KID_LENGTH: usize = 64;

/// The token is none of ours; the reason is for logs at most, never for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Forged(pub &'static str);

/// The first part. Members that are not here make the token unreadable: `crit`, `jku`, `x5u`, `jwk`, `x5c`, `zip`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenHeader {
    alg: String,
    typ: String,
    kid: String,
}

impl TokenHeader {
    /// The header of a token that is signed with the key `kid`.
    pub fn of(kid: &str) -> Self {
        Self {
            alg: ALGORITHM.to_owned(),
            typ: TYPE.to_owned(),
            kid: kid.to_owned(),
        }
    }
}

/// The second part. All of it is required, and a claim given twice or of another type makes the token unreadable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessClaims {
    /// Who signed it.
    pub iss: String,
    /// For whom.
    pub aud: String,
    /// The user.
    pub sub: Uuid,
    /// When it was made, in seconds since 1970.
    pub iat: i64,
    /// Not before.
    pub nbf: i64,
    /// When it ends.
    pub exp: i64,
    /// The token's own id.
    pub jti: Uuid,
    /// The session it belongs to.
    pub sid: Uuid,
}

/// Whose tokens, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRules {
    /// `iss`, exactly.
    pub issuer: String,
    /// `aud`, exactly.
    pub audience: String,
}

impl TokenRules {
    /// The rules that `TOKEN_ISSUER` and `TOKEN_AUDIENCE` make.
    pub fn of(settings: &Settings) -> Self {
        Self {
            issuer: settings.get("TOKEN_ISSUER").unwrap_or_default(),
            audience: settings.get("TOKEN_AUDIENCE").unwrap_or_default(),
        }
    }
}

/// A token of the right shape, of which nothing is known yet but the key that it claims to be signed with.
#[derive(Debug)]
pub struct UnverifiedToken<'a> {
    kid: String,
    /// What the signature is over: the first two parts as they came.
    signed: &'a str,
    claims: &'a str,
    signature: Vec<u8>,
}

impl<'a> UnverifiedToken<'a> {
    /// Reads the header of `token`.
    ///
    /// # Errors
    /// When it is not a token of ours by its shape.
    pub fn read(token: &'a str) -> Result<Self, Forged> {
        if token.len() > LONGEST {
            return Err(Forged("it is too long"));
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Forged("it has no parts"))?;
        let (header, claims) = signed.split_once('.').ok_or(Forged("it has two parts"))?;
        if claims.contains('.') {
            return Err(Forged("it has more than three parts"));
        }
        let header: TokenHeader = decode_part(header)?;
        let readable = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if header.alg != ALGORITHM || header.typ != TYPE {
            return Err(Forged("it is of another kind"));
        }
        if !(1..=KID_LENGTH).contains(&header.kid.len()) || !header.kid.bytes().all(readable) {
            return Err(Forged("its key has an impossible name"));
        }
        Ok(Self {
            kid: header.kid,
            signed,
            claims,
            signature: bytes_of(signature)?,
        })
    }

    /// The name of the key.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The claims, if `public_key` has signed them, they are `rules`' and hold `now` (seconds since 1970).
    ///
    /// # Errors
    /// When one of these is not so.
    pub fn verify(&self, public_key: &[u8], rules: &TokenRules, now: i64) -> Result<AccessClaims, Forged> {
        UnparsedPublicKey::new(&ED25519, public_key)
            .verify(self.signed.as_bytes(), &self.signature)
            .map_err(|_unspecified| Forged("its signature is wrong"))?;
        let claims: AccessClaims = decode_part(self.claims)?;
        if claims.iss != rules.issuer || claims.aud != rules.audience {
            return Err(Forged("it is from or for somebody else"));
        }
        let life = claims.exp.saturating_sub(claims.iat);
        if claims.nbf > now + LEEWAY || claims.iat > now + LEEWAY || !(1..=LONGEST_LIFE).contains(&life) {
            return Err(Forged("it holds at another time"));
        }
        if claims.exp <= now - LEEWAY {
            return Err(Forged("it has expired"));
        }
        Ok(claims)
    }
}

/// One part of a token as `T`.
///
/// # Errors
/// When it is not the one base64url text of a JSON value that is a `T`.
pub fn decode_part<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, Forged> {
    serde_json::from_slice(&bytes_of(part)?).map_err(|_error| Forged("a part is not what it should be"))
}

/// `value` as one part of a token.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn encode_part<T: Serialize>(value: &T) -> Result<String, serde_json::Error> {
    Ok(URL_SAFE_NO_PAD.encode(serde_json::to_vec(value)?))
}

/// Padding and bits behind the last byte are refused: two texts would be one token.
pub(super) fn bytes_of(part: &str) -> Result<Vec<u8>, Forged> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_error| Forged("a part is no base64url"))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_800_000_000;

    struct Issuer(Ed25519KeyPair);

    impl Issuer {
        fn new() -> Self {
            Self(Ed25519KeyPair::generate().unwrap())
        }

        fn sign(&self, header: &str, claims: &str) -> String {
            let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
            let signature = self.0.sign(signed.as_bytes());
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
        }

        fn claims(&self, token: &str) -> Result<AccessClaims, Forged> {
            let rules = TokenRules {
                issuer: "us".to_owned(),
                audience: "ours".to_owned(),
            };
            UnverifiedToken::read(token)?.verify(self.0.public_key().as_ref(), &rules, NOW)
        }
    }

    fn header() -> Value {
        json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "k1"})
    }

    fn claims() -> Value {
        json!({
            "iss": "us", "aud": "ours", "sub": Uuid::from_u128(1), "iat": NOW, "nbf": NOW, "exp": NOW + 300,
            "jti": Uuid::from_u128(2), "sid": Uuid::from_u128(3)
        })
    }

    /// `value` with `member` set, or removed where it is set to nothing.
    fn with(mut value: Value, member: &str, set: Option<Value>) -> String {
        if let Some(object) = value.as_object_mut() {
            match set {
                Some(set) => object.insert(member.to_owned(), set),
                None => object.remove(member),
            };
        }
        value.to_string()
    }

    #[test]
    fn takes_what_it_made_and_nothing_a_byte_off() {
        let issuer = Issuer::new();
        let token = issuer.sign(&header().to_string(), &claims().to_string());
        assert_eq!(issuer.claims(&token).unwrap().sub, Uuid::from_u128(1));
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(bytes).unwrap();
            assert!(issuer.claims(&forged).is_err(), "{at}: {forged}");
        }
        for forged in [
            token.replace('.', ""),
            token.rsplit_once('.').unwrap().0.to_owned(),
            format!("{token}."),
            format!("{token}="),
            format!("{token}.e30"),
            format!(".{token}"),
            format!("{}.", token.rsplit_once('.').unwrap().0),
            token.replace('.', "\u{3002}"),
            String::new(),
            "..".to_owned(),
            "a".repeat(5000),
        ] {
            assert!(issuer.claims(&forged).is_err(), "{forged}");
        }
        assert!(Issuer::new().claims(&token).is_err(), "another key");
    }

    #[test]
    fn a_header_of_another_kind_is_refused_however_it_is_signed() {
        let issuer = Issuer::new();
        let claims = claims().to_string();
        for (member, set) in [
            ("alg", Some(json!("none"))),
            ("alg", Some(json!("None"))),
            ("alg", Some(json!("nOnE"))),
            ("alg", Some(json!("HS256"))),
            ("alg", Some(json!("ES256"))),
            ("alg", Some(json!("Ed25519"))),
            ("alg", None),
            ("typ", Some(json!("JWT"))),
            ("typ", None),
            ("kid", None),
            ("kid", Some(json!(""))),
            ("kid", Some(json!(["k1"]))),
            ("kid", Some(json!("../../dev/null"))),
            ("kid", Some(json!("' OR 1=1--"))),
            ("kid", Some(json!("k1\0"))),
            ("kid", Some(json!("k".repeat(65)))),
            ("jku", Some(json!("http://127.0.0.1/"))),
            ("x5u", Some(json!("http://127.0.0.1/"))),
            ("jwk", Some(json!({}))),
            ("x5c", Some(json!([]))),
            ("crit", Some(json!(["x"]))),
            ("b64", Some(json!(false))),
            ("zip", Some(json!("DEF"))),
        ] {
            let token = issuer.sign(&with(header(), member, set.clone()), &claims);
            assert!(issuer.claims(&token).is_err(), "{member} {set:?}");
        }
        let twice = r#"{"alg":"EdDSA","alg":"EdDSA","typ":"at+jwt","kid":"k1"}"#;
        assert!(issuer.claims(&issuer.sign(twice, &claims)).is_err());
    }

    #[test]
    fn every_claim_is_there_once_and_of_its_type() {
        let issuer = Issuer::new();
        let refused = |text: &str| {
            let token = issuer.sign(&header().to_string(), text);
            assert!(issuer.claims(&token).is_err(), "{text}");
        };
        for member in ["iss", "aud", "sub", "iat", "nbf", "exp", "jti", "sid"] {
            refused(&with(claims(), member, None));
            for wrong in [
                json!(null),
                json!([]),
                json!({}),
                json!(true),
                json!("never"),
                json!(1e30),
                json!(1.5),
            ] {
                refused(&with(claims(), member, Some(wrong)));
            }
            let again = format!(
                "{},\"{member}\":{}}}",
                claims().to_string().trim_end_matches('}'),
                claims()[member]
            );
            refused(&again);
        }
        refused(&with(claims(), "iss", Some(json!("them"))));
        refused(&with(claims(), "aud", Some(json!(["ours"]))));
        refused(&with(claims(), "admin", Some(json!(true))));
        refused(&with(claims(), "nbf", Some(json!("9999999999"))));
        refused("[]");
    }

    #[test]
    fn the_clock_counts_to_the_second() {
        let issuer = Issuer::new();
        let holds = |member: &str, at: i64| {
            let token = issuer.sign(&header().to_string(), &with(claims(), member, Some(json!(at))));
            issuer.claims(&token).is_ok()
        };
        assert!(holds("nbf", NOW + LEEWAY) && !holds("nbf", NOW + LEEWAY + 1));
        assert!(holds("iat", NOW + LEEWAY) && !holds("iat", NOW + LEEWAY + 1));
        assert!(holds("exp", NOW + LONGEST_LIFE) && !holds("exp", NOW + LONGEST_LIFE + 1));
        assert!(!holds("exp", -1) && !holds("exp", i64::MIN) && !holds("iat", i64::MIN) && !holds("nbf", i64::MAX));
        let ended = |exp: i64| {
            let mut claims = claims();
            claims["iat"] = json!(NOW - 300);
            claims["nbf"] = json!(NOW - 300);
            claims["exp"] = json!(exp);
            issuer
                .claims(&issuer.sign(&header().to_string(), &claims.to_string()))
                .is_err()
        };
        assert!(!ended(NOW - LEEWAY + 1) && ended(NOW - LEEWAY) && ended(NOW - 10));
    }
}
