//! Who gets nothing from the kubelet port, what the answer is, and that hostile connections hinder nobody.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use e2e::TestResult;
use http::Request;
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::certificate::connect;
use crate::{DEADLINE, Ground, IDLE, NODE, Site, mk_simple, on_site};

/// The issuer of the upper cluster's tokens, and their audience.
const ISSUER: &str = "https://kubernetes.default.svc";
/// Hostile connections of each kind, open at the same time.
const HOSTILE: usize = 50;
/// Longest time for an answer beside them; a quiet server needs some milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a caller shows.
enum Shows<'a> {
    Nothing,
    Certificate(&'a Path),
    Token(&'a str),
}

/// Status and text that the kubelet port answers.
async fn ask(ground: &Ground, shows: &Shows<'_>, path: &str) -> Result<(u16, String)> {
    let url = format!("https://{}", ground.node.kubelet()).parse()?;
    let mut config = Config::new(url);
    if let Shows::Certificate(kubeconfig) = shows {
        let file = Kubeconfig::read_from(kubeconfig)?;
        let user = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        config.auth_info = user.auth_info;
    }
    let ca = rustls_pki_types::CertificateDer::from_pem_slice(ground.upper.client_ca_pem().as_bytes())?;
    config.root_cert = Some(vec![ca.to_vec()]);
    let mut request = Request::get(path);
    if path.starts_with("/exec") {
        request = request
            .header("connection", "Upgrade")
            .header("upgrade", "websocket");
    }
    if let Shows::Token(token) = shows {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let response = Client::try_from(config)?
        .send(request.body(Body::empty())?)
        .await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// A token as the API server makes it for the default account of the namespace, signed with its own key.
async fn token(site: &Site, expires_in: i64) -> Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(site.client.clone(), &site.namespace);
    let uid = accounts.get("default").await?.metadata.uid.context("no uid")?;
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let claims = json!({
        "iss": ISSUER, "aud": [ISSUER], "sub": format!("system:serviceaccount:{}:default", site.namespace),
        "iat": now - 7200, "nbf": now - 7200, "exp": now + expires_in,
        "kubernetes.io": {"namespace": site.namespace, "serviceaccount": {"name": "default", "uid": uid}},
    });
    let encode = |text: &Value| BASE64_URL_SAFE_NO_PAD.encode(text.to_string());
    let signed = format!("{}.{}", encode(&json!({"alg": "ES256"})), encode(&claims));
    let key = std::fs::read(site.ground.upper.folder().join("pki/sa.key"))?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(&key)?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_pkcs8_der())?;
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes())?;
    Ok(format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
}

fn mk_rights(user: &str, resource: &str, verbs: &[&str]) -> [Value; 2] {
    let group = "rbac.authorization.k8s.io";
    let role = json!({
        "apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": {"name": user},
        "rules": [{"apiGroups": [""], "resources": [resource], "verbs": verbs}],
    });
    let binding = json!({
        "apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": user},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": user},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    });
    [role, binding]
}

#[test]
fn nothing_gets_through_without_identity_and_rights() -> TestResult {
    on_site(async |site| {
        let ground = site.ground;
        site.run(&[mk_simple("web", IDLE)]).await?;
        site.apply(&mk_rights("reader", "nodes/proxy", &["get"])).await?;
        let stranger = ground.lower.kubeconfig_for("stranger", &["system:masters"])?;
        let visitor = ground.upper.kubeconfig_for("visitor", &["people"])?;
        let reader = ground.upper.kubeconfig_for("reader", &["people"])?;
        let (expired, valid) = (token(&site, -3600).await?, token(&site, 3600).await?);
        let logs = format!("/containerLogs/{}/web/main", site.namespace);
        let exec = format!("/exec/{}/web/main?command=id&output=1", site.namespace);
        let forbidden = |user: &str, verb: &str| {
            format!("Forbidden (user={user}, verb={verb}, resource=nodes, subresource(s)=[proxy])\n")
        };
        let account = format!("system:serviceaccount:{}:default", site.namespace);
        let cases = [
            ("nobody", Shows::Nothing, "get", 401, "Unauthorized".to_owned()),
            (
                "a certificate of another CA",
                Shows::Certificate(&stranger),
                "get",
                401,
                "Unauthorized".to_owned(),
            ),
            (
                "an expired token",
                Shows::Token(&expired),
                "get",
                401,
                "Unauthorized".to_owned(),
            ),
            (
                "a made-up token",
                Shows::Token("a.b.c"),
                "get",
                401,
                "Unauthorized".to_owned(),
            ),
            // The same but for its end, so that it is the end that is refused above.
            (
                "a valid token without rights",
                Shows::Token(&valid),
                "get",
                403,
                forbidden(&account, "get"),
            ),
            (
                "a user without rights",
                Shows::Certificate(&visitor),
                "get",
                403,
                forbidden("visitor", "get"),
            ),
            (
                "a user who may read",
                Shows::Certificate(&reader),
                "create",
                403,
                forbidden("reader", "create"),
            ),
        ];
        for (who, shows, refused, status, text) in &cases {
            // Reading `nodes/proxy` lets one read logs, but execute nothing, although a WebSocket comes as GET.
            let paths = if *refused == "create" {
                vec![&exec]
            } else {
                vec![&logs, &exec]
            };
            for path in paths {
                let answer = ask(ground, shows, path).await?;
                let wanted = text.replace("verb=get", if path == &exec { "verb=create" } else { "verb=get" });
                ensure!(
                    answer == (*status, wanted.clone()),
                    "{who} on {path}: {answer:?}, not {wanted:?}"
                );
            }
        }
        let allowed = ask(ground, &Shows::Certificate(&reader), &logs).await?;
        ensure!(allowed == (200, String::new()), "{allowed:?}");
        Ok(())
    })
}

#[test]
fn what_is_not_there_is_named_as_a_kubelet_does() -> TestResult {
    on_site(async |site| {
        let ground = site.ground;
        site.run(&[mk_simple("web", IDLE)]).await?;
        site.apply(&mk_rights("operator", "*", &["*"])).await?;
        let operator = ground.upper.kubeconfig_for("operator", &["people"])?;
        let ns = &site.namespace;
        let cases = [
            (
                format!("/containerLogs/{ns}/gone/main"),
                404,
                "pod \"gone\" does not exist",
            ),
            (
                "/containerLogs/kube-system/web/main".to_owned(),
                404,
                "pod \"web\" does not exist",
            ),
            (
                format!("/containerLogs/{ns}/web/other"),
                404,
                "container \"other\" not found in pod \"web\"",
            ),
            (
                format!("/containerLogs/{ns}/web/main?tailLines=-1"),
                422,
                "{\"message\": \"Invalid request.\"}",
            ),
            (
                format!("/exec/{ns}/gone/main?output=1&command=id"),
                404,
                "pod does not exist",
            ),
            (
                format!("/exec/{ns}/web/other?output=1&command=id"),
                500,
                "container not found (\"other\")",
            ),
            (
                format!("/exec/{ns}/web/no-such-uid/main?output=1&command=id"),
                500,
                "container not found (\"main\")",
            ),
            (
                format!("/exec/{ns}/web/main?command=id"),
                400,
                "you must specify at least 1 of stdin, stdout, stderr",
            ),
            ("/nothing".to_owned(), 404, "404 page not found\n"),
            ("/logs/".to_owned(), 405, "logs endpoint is disabled.\n"),
        ];
        for (path, status, text) in cases {
            let answer = ask(ground, &Shows::Certificate(&operator), &path).await?;
            ensure!(answer == (status, text.to_owned()), "{path}: {answer:?}");
        }
        let missing = site.kubectl(&["logs", "web", "-c", "other"]).await?;
        ensure!(
            !missing.status.success() && missing.stderr.contains("other"),
            "{missing:?}"
        );
        Ok(())
    })
}

#[test]
fn hostile_connections_hinder_nobody() -> TestResult {
    on_site(async |site| {
        let (ground, address) = (site.ground, site.ground.node.kubelet());
        let mut open = Vec::new();
        for number in 0..HOSTILE {
            // Says nothing at all.
            let silent = TcpStream::connect(address).await?;
            let mut garbage = TcpStream::connect(address).await?;
            garbage.write_all(&[u8::try_from(number)?; 512]).await?;
            let mut slow = connect(&ground.upper, address).await?;
            slow.write_all(b"GET /pods HTTP/1.1\r\nHost: x\r\nX-Slow: ")
                .await?;
            open.push((silent, garbage, slow));
        }
        let mut oversized = connect(&ground.upper, address).await?;
        let head = format!("GET /pods HTTP/1.1\r\nHost: x\r\nX-Big: {}", "x".repeat(2 << 20));
        // The server may close before it has read everything.
        let _ = oversized.write_all(head.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(DEADLINE, oversized.read_to_end(&mut answer)).await?;
        let answer = String::from_utf8_lossy(&answer);
        ensure!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
            "{answer}"
        );

        let answer = tokio::time::timeout(PATIENCE, ask(ground, &Shows::Nothing, "/pods")).await;
        let answer = answer.context("an honest caller waits")??;
        ensure!(answer.0 == 401, "{answer:?}");
        let healthz = format!("/api/v1/nodes/{NODE}/proxy/healthz");
        let healthy = tokio::time::timeout(PATIENCE, site.kubectl_ok(&["get", "--raw", &healthz])).await;
        ensure!(healthy.context("the API server waits")?? == "ok");
        Ok(())
    })
}
