//! AdmissionReview as bytes: slim and borrowed on the way in, written straight out on the way back.
//!
//! One pass over the body finds the parts of the pod that decisions need; each stays the bytes that arrived until
//! it is read. `v1` and `v1beta1` have the same shape here, and the answer carries the version of the question.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use json_patch::PatchOperation;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::loose::Loose;
use crate::pod::Object;

const KIND: &str = "AdmissionReview";
const VERSIONS: [&str; 2] = ["admission.k8s.io/v1", "admission.k8s.io/v1beta1"];
/// The API server cuts warnings after 256 characters (apiserver `filters/warning.go`); we do it at a character.
const WARNING_MAX: usize = 256;
/// Room for the operations of a usual patch, and for what a response holds besides its patch: neither then grows.
const PATCH_ROOM: usize = 2 << 10;
const RESPONSE_ROOM: usize = 512;

/// A question of the API server.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Review<'a> {
    #[serde(borrow)]
    api_version: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    request: Option<Request<'a>>,
}

/// What is to be admitted.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request<'a> {
    /// Names the question; the answer repeats it.
    #[serde(borrow)]
    pub uid: Cow<'a, str>,
    /// Kind of the object, in the version that the webhook is registered for.
    #[serde(borrow)]
    pub kind: Kind<'a>,
    /// Set when not the object itself but a part of it is asked about, such as `eviction`.
    #[serde(borrow, default)]
    pub sub_resource: Option<Cow<'a, str>>,
    /// Namespace of the request: the one that counts, as the object may not name its own yet.
    #[serde(borrow, default)]
    pub namespace: Option<Cow<'a, str>>,
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    #[serde(borrow)]
    pub operation: Cow<'a, str>,
    /// The object, as far as it is a pod.
    #[serde(borrow, default)]
    pub object: Option<Loose<Object<'a>>>,
}

/// Group and kind of an object.
#[derive(Debug, Deserialize)]
pub struct Kind<'a> {
    /// API group, empty for the core group.
    #[serde(borrow, default)]
    pub group: Cow<'a, str>,
    /// Kind, such as `Pod`.
    #[serde(borrow)]
    pub kind: Cow<'a, str>,
}

/// Why a body is no question.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// Not JSON, or not of this shape.
    #[error("the body is no AdmissionReview: {0}")]
    Json(#[from] serde_json::Error),
    /// JSON, but of another kind or version.
    #[error("the body is a {kind} of {version}, not an AdmissionReview of admission.k8s.io/v1 or v1beta1")]
    Kind {
        /// `kind` of the body.
        kind: String,
        /// `apiVersion` of the body.
        version: String,
    },
    /// An AdmissionReview that asks nothing.
    #[error("the AdmissionReview has no request")]
    NoRequest,
}

/// The answer to a question.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Why the object is denied; `None` lets it in.
    pub denial: Option<String>,
    /// Changes of the object; none when empty.
    pub patch: Vec<PatchOperation>,
    /// Shown to whoever made the request.
    pub warnings: Vec<String>,
}

/// An answer in the text that is sent. It is the same for all questions that are alike.
#[derive(Debug)]
pub struct Encoded {
    /// As in [`Answer`].
    pub denial: Option<String>,
    /// As in [`Answer`].
    pub warnings: Vec<String>,
    /// The operations: JSON in base64, as a JSON string. Kept in its quotes, as nothing in base64 is to be escaped.
    patch: Option<Box<RawValue>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answered<'a> {
    api_version: &'a str,
    kind: &'a str,
    response: Response<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<&'a str>,
}

#[derive(Serialize)]
struct Status<'a> {
    code: u16,
    message: &'a str,
}

// === impl Review ===

impl<'a> Review<'a> {
    /// Reads a request body.
    ///
    /// # Errors
    /// When it is no AdmissionReview of a known version.
    pub fn parse(body: &'a [u8]) -> Result<Self, ReviewError> {
        let review: Self = match std::str::from_utf8(body) {
            // Checked once, and not string by string.
            Ok(text) => serde_json::from_str(text)?,
            Err(_) => serde_json::from_slice(body)?,
        };
        if review.kind != KIND || !VERSIONS.contains(&&*review.api_version) {
            let (kind, version) = (review.kind.into_owned(), review.api_version.into_owned());
            return Err(ReviewError::Kind { kind, version });
        }
        Ok(review)
    }

    /// What is asked.
    ///
    /// # Errors
    /// When nothing is.
    pub fn request(&self) -> Result<&Request<'a>, ReviewError> {
        self.request.as_ref().ok_or(ReviewError::NoRequest)
    }

    /// The response body.
    ///
    /// # Errors
    /// Never in practice: all of it is plain data.
    pub fn answer(&self, answer: &Encoded) -> Result<Vec<u8>, ReviewError> {
        let patch = answer.patch.as_deref();
        let response = Response {
            uid: &self.request()?.uid,
            allowed: answer.denial.is_none(),
            status: answer
                .denial
                .as_deref()
                .map(|message| Status { code: 403, message }),
            patch_type: patch.is_some().then_some("JSONPatch"),
            patch,
            warnings: answer.warnings.iter().map(|warning| shortened(warning)).collect(),
        };
        let mut body = Vec::with_capacity(RESPONSE_ROOM + answer.patch_len());
        serde_json::to_writer(
            &mut body,
            &Answered {
                api_version: &self.api_version,
                kind: KIND,
                response,
            },
        )?;
        Ok(body)
    }
}

// === impl Answer ===

impl Answer {
    /// The answer as it is sent.
    ///
    /// # Errors
    /// Never in practice: all of it is plain data.
    pub fn encode(self) -> Result<Encoded, ReviewError> {
        let patch = match self.patch.as_slice() {
            [] => None,
            operations => Some(encode_patch(operations)?),
        };
        Ok(Encoded {
            denial: self.denial,
            warnings: self.warnings,
            patch,
        })
    }
}

fn encode_patch(operations: &[PatchOperation]) -> serde_json::Result<Box<RawValue>> {
    let mut json = Vec::with_capacity(PATCH_ROOM);
    serde_json::to_writer(&mut json, operations)?;
    // A third more, rounded up, and the quotes.
    let mut text = String::with_capacity(json.len().div_ceil(3) * 4 + 2);
    text.push('"');
    STANDARD.encode_string(&json, &mut text);
    text.push('"');
    RawValue::from_string(text)
}

// === impl Encoded ===

impl Encoded {
    /// Bytes of the patch.
    pub(crate) fn patch_len(&self) -> usize {
        self.patch.as_ref().map_or(0, |patch| patch.get().len())
    }
}

fn shortened(warning: &str) -> &str {
    match warning.char_indices().nth(WARNING_MAX) {
        Some((end, _)) => &warning[..end],
        None => warning,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mk_body(version: &str) -> Vec<u8> {
        json!({"apiVersion": version, "kind": "AdmissionReview", "request": {
            "uid": "u-1", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "operation": "CREATE",
            "namespace": "default", "object": {"spec": {}}, "dryRun": false}})
        .to_string()
        .into_bytes()
    }

    /// The response to a question of this version.
    fn answered(version: &str, answer: Answer) -> Value {
        let body = mk_body(version);
        let response = Review::parse(&body).unwrap().answer(&answer.encode().unwrap());
        serde_json::from_slice(&response.unwrap()).unwrap()
    }

    #[test]
    fn the_answer_has_the_version_and_the_uid_of_the_question() {
        for version in VERSIONS {
            let answer = answered(version, Answer::default());
            let expected = json!({"apiVersion": version, "kind": "AdmissionReview",
                "response": {"uid": "u-1", "allowed": true}});
            assert_eq!(answer, expected);
        }
    }

    #[test]
    fn a_patch_is_base64_of_rfc_6902() {
        let patch: json_patch::Patch =
            serde_json::from_value(json!([{"op": "remove", "path": "/spec/nodeSelector"}])).unwrap();
        let answer = Answer {
            patch: patch.0,
            ..Answer::default()
        };
        let answer = answered(VERSIONS[0], answer);
        assert_eq!(answer["response"]["patchType"], "JSONPatch");
        let patch = STANDARD
            .decode(answer["response"]["patch"].as_str().unwrap())
            .unwrap();
        assert_eq!(patch, br#"[{"op":"remove","path":"/spec/nodeSelector"}]"#);
    }

    #[test]
    fn a_denial_has_a_message_and_long_warnings_are_cut() {
        let answer = Answer {
            denial: Some("no".to_owned()),
            warnings: vec!["é".repeat(300)],
            ..Answer::default()
        };
        let answer = answered(VERSIONS[0], answer);
        assert_eq!(answer["response"]["allowed"], false);
        assert_eq!(
            answer["response"]["status"],
            json!({"code": 403, "message": "no"})
        );
        assert_eq!(answer["response"]["warnings"], json!(["é".repeat(256)]));
    }

    #[test]
    fn what_is_no_question_is_refused_with_the_reason() {
        for (body, reason) in [
            ("", "EOF"),
            ("nonsense", "expected"),
            ("[]", "invalid"),
            ("{\"apiVersion\": \"admission.k8s.io/v1\"", "EOF"),
            (r#"{"apiVersion": "admission.k8s.io/v1"}"#, "missing field `kind`"),
            (r#"{"apiVersion": "v1", "kind": "Pod"}"#, "a Pod of v1"),
            (
                r#"{"apiVersion": "admission.k8s.io/v2", "kind": "AdmissionReview"}"#,
                "admission.k8s.io/v2",
            ),
            (
                r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {}}"#,
                "`uid`",
            ),
        ] {
            let error = Review::parse(body.as_bytes()).expect_err(body).to_string();
            assert!(error.contains(reason), "{body}: {error}");
        }
        let empty = br#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": null}"#;
        let error = Review::parse(empty).unwrap().request().unwrap_err().to_string();
        assert!(error.contains("no request"), "{error}");
    }
}
