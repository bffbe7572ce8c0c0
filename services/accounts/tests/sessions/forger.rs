//! Makes tokens that are not the service's, and some that it ought to believe.

use anyhow::{Context, Result};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use posthaste::message::now;
use serde_json::json;

use crate::house::House;

pub const KID: &str = "forger";

/// A key whose public half is among the service's.
pub struct Forger(pub Ed25519KeyPair);

impl Forger {
    pub async fn move_in(house: &House) -> Result<Self> {
        let pair = Ed25519KeyPair::generate()?;
        let store = house.service.store();
        let sql = "INSERT INTO signing_keys (kid, public_key, sealed_key, active_from) VALUES ($1, $2, 'none', $3)";
        let public = URL_SAFE_NO_PAD.encode(pair.public_key());
        store
            .execute(sql, vec![KID.into(), public.into(), store.dialect().time(now())])
            .await?;
        Ok(Self(pair))
    }

    pub fn sign(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(self.0.sign(signed.as_bytes())))
    }
}

/// Tokens under `alg: HS256` whose secret is the public key, in every form in which it is handed around.
pub fn hmacs_of_the_public_key(claims: &str, public: &[u8]) -> Vec<String> {
    // The head of an Ed25519 key in DER.
    let head = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    let der = [&head, public].concat();
    let lines = base64::engine::general_purpose::STANDARD.encode(&der);
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{lines}\n-----END PUBLIC KEY-----");
    let x = URL_SAFE_NO_PAD.encode(public);
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": x}).to_string();
    let secrets: [Vec<u8>; 6] = [
        public.to_vec(),
        der,
        format!("{pem}\n").into_bytes(),
        pem.into_bytes(),
        x.into_bytes(),
        jwk.into_bytes(),
    ];
    let head = json!({"alg": "HS256", "typ": "at+jwt", "kid": KID}).to_string();
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims));
    let sign = |secret: &Vec<u8>| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let tag = hmac::sign(&key, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
    };
    secrets.iter().map(sign).collect()
}

/// `token` with signatures that a verifier which does not look closely takes: the other scalar that stands for the same
/// number, and the point that is good for everything.
pub fn other_points(token: &str) -> Result<[String; 2]> {
    let (signed, signature) = token.rsplit_once('.').context("no signature")?;
    let mut bytes = URL_SAFE_NO_PAD.decode(signature)?;
    // The order of the group, lowest byte first.
    let order: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut carry = 0_u16;
    for (byte, add) in bytes[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = (sum & 0xff) as u8;
        carry = sum >> 8;
    }
    let mut small = [0; 64];
    small[0] = 1;
    Ok([bytes, small.to_vec()].map(|bytes| format!("{signed}.{}", URL_SAFE_NO_PAD.encode(bytes))))
}
