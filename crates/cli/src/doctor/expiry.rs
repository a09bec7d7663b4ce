//! When credentials end, as far as they say so themselves.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::Value;
use x509_parser::pem::Pem;

/// The end of the first user's token or client certificate in a kubeconfig.
pub(crate) fn of_kubeconfig(kubeconfig: &Value) -> Option<Timestamp> {
    let user = &kubeconfig["users"][0]["user"];
    let token = user["token"].as_str().and_then(of_token);
    let certificate = user["client-certificate-data"]
        .as_str()
        .and_then(|data| BASE64_STANDARD.decode(data).ok());
    token.or_else(|| of_pem(&certificate?))
}

/// The end of a JSON web token: its claim `exp`, in seconds.
fn of_token(token: &str) -> Option<Timestamp> {
    let claims = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    Timestamp::from_second(claims["exp"].as_i64()?).ok()
}

/// The end of the certificate in a PEM file that ends first.
pub(crate) fn of_pem(pem: &[u8]) -> Option<Timestamp> {
    let ends = Pem::iter_from_buffer(pem).filter_map(|block| {
        let block = block.ok()?;
        let certificate = block.parse_x509().ok()?;
        Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
    });
    ends.min()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_says_when_it_ends_and_an_opaque_one_does_not() {
        let claims = BASE64_URL_SAFE_NO_PAD.encode(json!({"exp": 1_700_000_000}).to_string());
        let kubeconfig = |token: &str| json!({"users": [{"user": {"token": token}}]});
        let end = of_kubeconfig(&kubeconfig(&format!("head.{claims}.signature")));
        assert_eq!(end, Timestamp::from_second(1_700_000_000).ok());
        assert_eq!(of_kubeconfig(&kubeconfig("opaque")), None);
        assert_eq!(of_kubeconfig(&json!({})), None);
    }

    #[test]
    fn a_certificate_says_when_it_ends() {
        let mut params = rcgen::CertificateParams::new(vec!["a".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2031, 2, 3);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let kubeconfig =
            json!({"users": [{"user": {"client-certificate-data": BASE64_STANDARD.encode(&pem)}}]});
        assert_eq!(
            of_kubeconfig(&kubeconfig).unwrap().to_string(),
            "2031-02-03T00:00:00Z"
        );
    }
}
