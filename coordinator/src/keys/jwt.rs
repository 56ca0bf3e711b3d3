//! NATS JWTs (version 2): encoding, decoding and signature.
//!
//! Decides: the three parts of a token and what is signed. Deliberately does not: know which claims an account or a
//! device gets; `accounts` does.

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use nkeys::KeyPair;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const HEADER: &[u8] = br#"{"typ":"JWT","alg":"ed25519-nkey"}"#;

/// A text that is not a JWT of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Not three parts of base64url, or not JSON.
    #[error("not a NATS JWT")]
    Layout,
    /// The issuer named in it did not sign it.
    #[error("the JWT's signature does not fit its issuer {issuer}")]
    Signature {
        /// As the JWT says.
        issuer: String,
    },
    /// Not a public user nkey.
    #[error("{0:?} is not a public user nkey (56 characters that begin with U)")]
    NotAUserKey(String),
}

/// What a token says besides its `nats` part.
#[derive(Debug)]
pub struct Head<'a> {
    /// Whom it is about: a public nkey.
    pub subject: &'a str,
    /// For people.
    pub name: &'a str,
    /// Seconds since 1970.
    pub issued_at: u64,
    /// Seconds since 1970; never when absent.
    pub expires: Option<u64>,
}

/// Encodes and signs a token.
pub fn encode(issuer: &KeyPair, head: &Head<'_>, nats: &Value) -> String {
    let mut claims = json!({
        "iat": head.issued_at,
        "iss": issuer.public_key(),
        "name": head.name,
        "nats": nats,
        "sub": head.subject,
    });
    if let Some(at) = head.expires {
        claims["exp"] = at.into();
    }
    claims["jti"] = BASE32_NOPAD.encode(&Sha256::digest(claims.to_string().as_bytes())).into();
    let signed =
        format!("{}.{}", BASE64URL_NOPAD.encode(HEADER), BASE64URL_NOPAD.encode(claims.to_string().as_bytes()));
    let signature = issuer.sign(signed.as_bytes()).expect("invariant: an issuer has its private half");
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

/// Reads a token's claims after checking its signature against the issuer it names. The caller decides whether it
/// trusts that issuer.
pub fn decode(token: &str) -> Result<Value, JwtError> {
    let parts: Vec<&str> = token.trim().split('.').collect();
    let [head, body, signature] = parts[..] else { return Err(JwtError::Layout) };
    let bytes = |part: &str| BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| JwtError::Layout);
    let header: Value = serde_json::from_slice(&bytes(head)?).map_err(|_| JwtError::Layout)?;
    let claims: Value = serde_json::from_slice(&bytes(body)?).map_err(|_| JwtError::Layout)?;
    let issuer = claims["iss"].as_str().ok_or(JwtError::Layout)?;
    if header["alg"] != "ed25519-nkey" {
        return Err(JwtError::Layout);
    }
    let fits = KeyPair::from_public_key(issuer)
        .and_then(|key| key.verify(format!("{head}.{body}").as_bytes(), &bytes(signature).unwrap_or_default()));
    match fits {
        Ok(()) => Ok(claims),
        Err(_) => Err(JwtError::Signature { issuer: issuer.to_owned() }),
    }
}

/// Checks that a text is the public nkey of a user.
pub fn check_user_key(text: &str) -> Result<(), JwtError> {
    let bad = || JwtError::NotAUserKey(text.chars().take(60).collect());
    if !text.starts_with('U') || text.len() != 56 {
        return Err(bad());
    }
    KeyPair::from_public_key(text).map(drop).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer() -> KeyPair {
        KeyPair::new_from_raw(nkeys::KeyPairType::Account, [7; 32]).unwrap()
    }

    #[test]
    fn a_known_key_signs_a_known_token() {
        let head = Head { subject: "UA", name: "n", issued_at: 1, expires: Some(2) };
        let token = encode(&issuer(), &head, &json!({"type": "user", "version": 2}));
        let parts: Vec<&str> = token.split('.').collect();
        assert_eq!(parts[0], "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ");
        let body = String::from_utf8(BASE64URL_NOPAD.decode(parts[1].as_bytes()).unwrap()).unwrap();
        assert!(body.starts_with(r#"{"exp":2,"iat":1,"iss":"A"#), "{body}");
        // Ed25519 is deterministic: the same key and claims give the same bytes for ever.
        assert_eq!(encode(&issuer(), &head, &json!({"type": "user", "version": 2})), token);
        let signed = format!("{}.{}", parts[0], parts[1]);
        let signature = BASE64URL_NOPAD.decode(parts[2].as_bytes()).unwrap();
        KeyPair::from_public_key(&issuer().public_key()).unwrap().verify(signed.as_bytes(), &signature).unwrap();
    }

    #[test]
    fn an_altered_token_is_refused() {
        let head = Head { subject: "UA", name: "n", issued_at: 1, expires: None };
        let token = encode(&issuer(), &head, &json!({"type": "user"}));
        assert_eq!(decode(&token).unwrap()["sub"], "UA");
        let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
        parts[1] = BASE64URL_NOPAD.encode(
            String::from_utf8(BASE64URL_NOPAD.decode(parts[1].as_bytes()).unwrap())
                .unwrap()
                .replace("UA", "UB")
                .as_bytes(),
        );
        assert!(matches!(decode(&parts.join(".")), Err(JwtError::Signature { .. })));
        for bad in ["", "a.b", "a.b.c", "e30.e30.e30"] {
            assert_eq!(decode(bad), Err(JwtError::Layout), "{bad}");
        }
    }

    #[test]
    fn only_user_keys_pass_for_user_keys() {
        assert!(check_user_key(&KeyPair::new_user().public_key()).is_ok());
        for bad in [KeyPair::new_account().public_key(), "U".to_owned(), String::new(), "U".repeat(56)] {
            assert!(check_user_key(&bad).is_err(), "{bad}");
        }
    }
}
