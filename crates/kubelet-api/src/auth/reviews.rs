//! The two reviews, as a trait with one implementation: the API server.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{Api, PostParams};

use super::{Question, User};

/// Longest wait for a review: the request timeout of Kubernetes' own webhook authenticators and authorizers.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers the two questions. A closure-like seam: tests script it, [`ApiReviews`] asks the API server.
pub trait Reviews: Send + Sync + 'static {
    /// Whose token it is; `None` if nobody's.
    ///
    /// # Errors
    /// When it cannot be found out now.
    fn token<'a>(&'a self, token: &'a str) -> ReviewFuture<'a, Option<User>>;

    /// Whether the answer to `question` is yes.
    ///
    /// # Errors
    /// When it cannot be found out now.
    fn access<'a>(&'a self, question: &'a Question) -> ReviewFuture<'a, bool>;
}

/// The future of a review.
pub type ReviewFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, ReviewError>> + Send + 'a>>;

/// A review could not be made. All variants may pass when tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// The API server refused or could not be reached.
    #[error(
        "review: {0}; check that it is reachable and that we may create tokenreviews and subjectaccessreviews"
    )]
    Request(#[source] Box<kube::Error>),
    /// No answer in time.
    #[error("review: no answer within {} s", REVIEW_TIMEOUT.as_secs())]
    Timeout,
    /// The answer has no status, or says that it is wrong.
    #[error("review: {0}")]
    Answer(String),
}

/// Reviews by the API server: `TokenReview` and `SubjectAccessReview`, both v1.
pub struct ApiReviews {
    tokens: Api<TokenReview>,
    access: Api<SubjectAccessReview>,
}

// === impl ApiReviews ===

impl ApiReviews {
    /// Reviews with `client`, which needs the rights of the ClusterRole `system:auth-delegator`.
    #[must_use]
    pub fn new(client: kube::Client) -> Self {
        Self {
            tokens: Api::all(client.clone()),
            access: Api::all(client),
        }
    }
}

impl Reviews for ApiReviews {
    fn token<'a>(&'a self, token: &'a str) -> ReviewFuture<'a, Option<User>> {
        let spec = TokenReviewSpec {
            token: token.to_owned(),
            ..TokenReviewSpec::default()
        };
        let review = TokenReview {
            spec,
            ..TokenReview::default()
        };
        Box::pin(async move {
            let answer = bounded(self.tokens.create(&PostParams::default(), &review)).await?;
            let status = answer
                .status
                .ok_or_else(|| ReviewError::Answer("no status".to_owned()))?;
            match status.authenticated {
                Some(true) => status.user.and_then(user_of).map(Some).ok_or_else(|| {
                    ReviewError::Answer("the token is authenticated and has no user".to_owned())
                }),
                _ => Ok(None),
            }
        })
    }

    fn access<'a>(&'a self, question: &'a Question) -> ReviewFuture<'a, bool> {
        Box::pin(async move {
            let review = SubjectAccessReview {
                spec: spec_of(question),
                ..SubjectAccessReview::default()
            };
            let answer = bounded(self.access.create(&PostParams::default(), &review)).await?;
            let status = answer
                .status
                .ok_or_else(|| ReviewError::Answer("no status".to_owned()))?;
            match (status.allowed, status.denied.unwrap_or_default()) {
                (true, true) => Err(ReviewError::Answer("both allowed and denied".to_owned())),
                (allowed, _) => Ok(allowed),
            }
        })
    }
}

async fn bounded<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, ReviewError> {
    let answer = tokio::time::timeout(REVIEW_TIMEOUT, request)
        .await
        .map_err(|_| ReviewError::Timeout)?;
    answer.map_err(|error| ReviewError::Request(Box::new(error)))
}

/// The reviewed user; `None` without a name.
fn user_of(info: UserInfo) -> Option<User> {
    let name = info.username.filter(|name| !name.is_empty())?;
    let extra = info.extra.unwrap_or_default();
    Some(User {
        name,
        uid: info.uid,
        groups: info.groups.unwrap_or_default(),
        extra,
    })
}

fn spec_of(question: &Question) -> SubjectAccessReviewSpec {
    let user = question.user.clone();
    SubjectAccessReviewSpec {
        user: Some(user.name),
        uid: user.uid,
        groups: Some(user.groups),
        extra: Some(user.extra),
        resource_attributes: Some(ResourceAttributes {
            verb: Some(question.verb.to_owned()),
            version: Some("v1".to_owned()),
            resource: Some("nodes".to_owned()),
            subresource: Some(question.subresource.to_owned()),
            name: Some(question.node.to_string()),
            ..ResourceAttributes::default()
        }),
        ..SubjectAccessReviewSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{mk_api, mk_question};
    use serde_json::json;

    #[tokio::test]
    async fn a_token_is_reviewed_and_its_user_read_back() {
        let (client, mut seen) = mk_api(
            201,
            json!({"status": {
                "authenticated": true,
                "user": {"username": "prom", "uid": "7", "groups": ["g"], "extra": {"k": ["v"]}},
            }}),
        );
        let user = ApiReviews::new(client).token("secret").await.unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_deref()), ("prom", Some("7")));
        assert_eq!(
            (user.groups, user.extra["k"].clone()),
            (vec!["g".to_owned()], vec!["v".to_owned()])
        );
        let (line, body) = seen.recv().await.unwrap();
        assert_eq!(line, "POST /apis/authentication.k8s.io/v1/tokenreviews?");
        assert_eq!(body["spec"], json!({"token": "secret"}));
    }

    #[tokio::test]
    async fn a_token_of_nobody_is_no_error_and_a_nameless_user_is_one() {
        for (status, wanted) in [
            (json!({"authenticated": false, "error": "expired"}), Some(None)),
            (json!({}), Some(None)),
            (json!({"authenticated": true, "user": {"username": ""}}), None),
        ] {
            let (client, _seen) = mk_api(201, json!({"status": status}));
            assert_eq!(ApiReviews::new(client).token("t").await.ok(), wanted, "{status}");
        }
    }

    #[tokio::test]
    async fn access_is_asked_for_a_subresource_of_the_node() {
        let (client, mut seen) = mk_api(201, json!({"spec": {}, "status": {"allowed": true}}));
        assert!(
            ApiReviews::new(client)
                .access(&mk_question("u", "create", "proxy"))
                .await
                .unwrap()
        );
        let (line, body) = seen.recv().await.unwrap();
        assert_eq!(line, "POST /apis/authorization.k8s.io/v1/subjectaccessreviews?");
        assert_eq!(body["spec"]["user"], "u");
        assert_eq!(
            body["spec"]["resourceAttributes"],
            json!({"verb": "create", "version": "v1", "resource": "nodes", "subresource": "proxy", "name": "vn"})
        );
    }

    #[tokio::test]
    async fn only_a_clear_yes_allows() {
        for (code, answer, wanted) in [
            (
                201,
                json!({"spec": {}, "status": {"allowed": false}}),
                Some(false),
            ),
            (
                201,
                json!({"spec": {}, "status": {"allowed": false, "denied": true}}),
                Some(false),
            ),
            (
                201,
                json!({"spec": {}, "status": {"allowed": true, "denied": true}}),
                None,
            ),
            (201, json!({"spec": {}}), None),
            (
                403,
                json!({"kind": "Status", "status": "Failure", "code": 403, "message": "no"}),
                None,
            ),
        ] {
            let (client, _seen) = mk_api(code, answer.clone());
            let allowed = ApiReviews::new(client)
                .access(&mk_question("u", "get", "pods"))
                .await;
            assert_eq!(allowed.ok(), wanted, "{answer}");
        }
    }
}
