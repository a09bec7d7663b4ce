//! Certificates from a scripted API server that signs what it is asked to.

use std::convert::Infallible;
use std::sync::Mutex;

use axum::body::Body;
use futures::stream;
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use rcgen::{CertificateSigningRequestParams, date_time_ymd};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tower::service_fn;

use super::*;
use crate::testing::{Ca, mk_ca};

const DEADLINE: Duration = Duration::from_secs(20);

/// What the API server does with requests for certificates.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Approver {
    /// Signs once the request is approved by whoever asked.
    WaitsForApproval,
    /// Somebody else approves; our own approval is forbidden.
    Somebody,
    Denies,
}

struct Signer {
    approver: Approver,
    ca: Ca,
    /// All requests, oldest first.
    requests: Mutex<Vec<Value>>,
    approved: Mutex<bool>,
}

impl Signer {
    fn answer(&self, method: &Method, uri: &str, body: &Value) -> (u16, Value) {
        let mut requests = self.requests.lock().unwrap();
        match *method {
            Method::POST => {
                let mut object = body.clone();
                object["metadata"] =
                    json!({"name": format!("csr-{}", requests.len()), "resourceVersion": "1"});
                requests.push(object.clone());
                (201, object)
            }
            Method::PATCH => {
                assert!(uri.contains("/csr-") && uri.contains("/approval?"), "{uri}");
                assert_eq!(body["status"]["conditions"][0]["type"], "Approved");
                if self.approver == Approver::Somebody {
                    return (
                        403,
                        json!({"kind": "Status", "status": "Failure", "code": 403, "message": "no"}),
                    );
                }
                *self.approved.lock().unwrap() = true;
                (200, requests.last().cloned().unwrap())
            }
            _ => (
                200,
                json!({
                    "kind": "CertificateSigningRequestList", "apiVersion": "certificates.k8s.io/v1",
                    "metadata": {"resourceVersion": "1"},
                    "items": [requests.last().cloned().unwrap()],
                }),
            ),
        }
    }

    /// The watch event that ends the wait, if there is one.
    fn event(&self) -> Option<Value> {
        let mut object = self.requests.lock().unwrap().last().cloned()?;
        object["metadata"]["resourceVersion"] = json!("2");
        object["status"] = match self.approver {
            Approver::Denies => json!({"conditions": [
                {"type": "Denied", "status": "True", "reason": "Policy", "message": "not this node"}]}),
            Approver::WaitsForApproval if !*self.approved.lock().unwrap() => return None,
            _ => json!({"certificate": base64(&self.sign(&object))}),
        };
        Some(json!({"type": "MODIFIED", "object": object}))
    }

    fn sign(&self, object: &Value) -> String {
        let request = k8s_openapi::ByteString::deserialize(&object["spec"]["request"]).unwrap();
        let pem = String::from_utf8(request.0).unwrap();
        let mut request = CertificateSigningRequestParams::from_pem(&pem).unwrap();
        (request.params.not_before, request.params.not_after) =
            (date_time_ymd(2026, 1, 1), date_time_ymd(2126, 1, 1));
        request.signed_by(&self.ca.issuer).unwrap().pem()
    }
}

fn base64(text: &str) -> Value {
    serde_json::to_value(k8s_openapi::ByteString(text.as_bytes().to_vec())).unwrap()
}

fn mk_signer(approver: Approver) -> (Arc<Signer>, kube::Client) {
    let signer = Arc::new(Signer {
        approver,
        ca: mk_ca("cluster"),
        requests: Mutex::default(),
        approved: Mutex::default(),
    });
    let server = Arc::clone(&signer);
    let service = service_fn(move |request: Request<kube::client::Body>| {
        let signer = Arc::clone(&server);
        async move {
            let (parts, body) = request.into_parts();
            let uri = parts.uri.to_string();
            if uri.contains("watch=true") {
                let event = signer
                    .event()
                    .map(|event| Ok::<_, Infallible>(format!("{event}\n")));
                let events = futures::StreamExt::chain(stream::iter(event), stream::pending());
                return Ok::<_, kube::Error>(Response::new(Body::from_stream(events)));
            }
            let body = body.collect().await?.to_bytes();
            let (code, answer) = signer.answer(
                &parts.method,
                &uri,
                &serde_json::from_slice(&body).unwrap_or_default(),
            );
            let mut response = Response::new(Body::from(answer.to_string()));
            *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
            Ok(response)
        }
    });
    (signer, kube::Client::new(service, "default"))
}

fn mk_signing(client: kube::Client, approve: bool) -> Signing {
    let request = ServingRequest {
        node: "vn".to_owned(),
        signer: KUBELET_SERVING.to_owned(),
        approve,
    };
    Signing {
        api: Api::all(client),
        request,
    }
}

fn mk_names() -> Vec<String> {
    vec!["10.0.0.7".to_owned()]
}

#[tokio::test]
async fn a_request_is_approved_by_us_or_by_somebody() {
    for (approver, approve) in [
        (Approver::WaitsForApproval, true),
        (Approver::Somebody, true),
        (Approver::Somebody, false),
    ] {
        let (signer, client) = mk_signer(approver);
        let cert = ServingCert::default();
        let (signing, names) = (mk_signing(client, approve), mk_names());
        timeout(DEADLINE, signing.renew(&names, &cert))
            .await
            .unwrap()
            .unwrap();
        assert!(cert.is_set(), "{approver:?}");
        assert_eq!(
            signer.requests.lock().unwrap()[0]["spec"]["signerName"],
            KUBELET_SERVING
        );
    }
}

#[tokio::test]
async fn a_denied_request_says_why_and_changes_nothing() {
    let (_signer, client) = mk_signer(Approver::Denies);
    let cert = ServingCert::default();
    let error = mk_signing(client, false)
        .renew(&mk_names(), &cert)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "CertificateSigningRequest csr-0 was refused: Policy: not this node"
    );
    assert!(!cert.is_set());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_nobody_signs_ends_in_time() {
    let (_signer, client) = mk_signer(Approver::WaitsForApproval);
    let error = mk_signing(client, false)
        .renew(&mk_names(), &ServingCert::default())
        .await
        .unwrap_err();
    assert!(matches!(error, ServingError::NotSigned(name) if name == "csr-0"));
}

#[tokio::test]
async fn a_new_address_brings_a_new_certificate() {
    let (signer, client) = mk_signer(Approver::Somebody);
    let cert = Arc::new(ServingCert::default());
    let (addresses, receiver) = watch::channel(mk_names());
    let request = ServingRequest {
        node: "vn".to_owned(),
        signer: KUBELET_SERVING.to_owned(),
        approve: false,
    };
    let task = tokio::spawn(keep(client, request, receiver, Arc::clone(&cert)));
    let until = |requests: usize| {
        let (signer, cert) = (Arc::clone(&signer), Arc::clone(&cert));
        async move {
            let met = async {
                while signer.requests.lock().unwrap().len() < requests || !cert.is_set() {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            timeout(DEADLINE, met).await.unwrap();
        }
    };
    until(1).await;
    addresses.send(vec!["10.0.0.8".to_owned()]).unwrap();
    until(2).await;
    task.abort();
}

#[tokio::test]
async fn a_new_address_brings_a_new_self_signed_certificate() {
    let cert = ServingCert::default();
    self_sign("vn", &mk_names(), &cert).unwrap();
    let first = cert.age_reached(0.0);
    let (addresses, receiver) = watch::channel(mk_names());
    let renewed = async {
        // Starts have whole seconds, so another one shows a new certificate.
        while cert.age_reached(0.0) == first {
            addresses.send_modify(|names| names.push("vn.example".to_owned()));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        renewed = timeout(DEADLINE, renewed) => renewed.unwrap(),
        () = keep_self_signed("vn", receiver, &cert) => unreachable!("it never ends"),
    }
}

#[test]
fn the_renewal_is_at_four_fifths_of_the_life_and_never_at_once() {
    let cert = ServingCert::default();
    let soon = until_age(&cert, RENEW_AT)
        .duration_since(SystemTime::now())
        .unwrap();
    assert!(soon <= SHORTEST && soon > SHORTEST / 2, "{soon:?}");
    let life = Duration::from_secs(100_000);
    let pair = tensile_runtime::tls::self_signed("vn", &mk_names(), life).unwrap();
    cert.set_pem(pair.cert.as_bytes(), pair.key.as_bytes()).unwrap();
    let left = until_age(&cert, RENEW_AT)
        .duration_since(SystemTime::now())
        .unwrap()
        .as_secs();
    // The certificate is backdated by five minutes.
    assert!((79_000..80_001).contains(&left), "{left}");
}
