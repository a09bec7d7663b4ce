//! Who calls, and whether they may: client certificate or bearer token, then a `SubjectAccessReview`.
//!
//! The order, the lifetimes of the caches and the texts are a kubelet's. Nobody is anonymous. A review that
//! fails lets nobody in: the answer is 500 and a metric counts it.

mod cache;
mod reviews;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use tensile_runtime::tls::Peer;

use crate::attrs::Access;
use crate::metrics::{Metrics, Review};
use crate::text::text;
use cache::TtlCache;

pub use reviews::{ApiReviews, ReviewError, ReviewFuture, Reviews};

/// How long a token's review counts: the kubelet's `authentication.webhook.cacheTTL`.
const TOKEN_TTL: Duration = Duration::from_secs(120);
/// How long a permission counts: the kubelet's `authorization.webhook.cacheAuthorizedTTL`.
const ALLOWED_TTL: Duration = Duration::from_secs(300);
/// How long a refusal counts: the kubelet's `authorization.webhook.cacheUnauthorizedTTL`.
const DENIED_TTL: Duration = Duration::from_secs(30);
/// Entries per cache. Callers are an API server, a few scrapers and agents; a flood of made-up tokens must not
/// grow it. An entry is under 1 KiB.
const CACHE_ENTRIES: usize = 4096;
/// The group of everybody whose identity was proved. An API server adds it to the users of tokens, and a kubelet to
/// those of certificates.
const AUTHENTICATED: &str = "system:authenticated";
/// Longest token that is reviewed. Service account tokens have about 1 KiB, the largest OIDC ones stay below 16.
const MAX_TOKEN: usize = 32 << 10;

/// A user, as the reviews know them.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct User {
    /// Name.
    pub name: String,
    /// UID, if the authenticator has one.
    pub uid: Option<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// Further attributes.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// One question to the authorizer: may `user` `verb` the `subresource` of `node`?
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Question {
    /// Who.
    pub user: User,
    /// The verb.
    pub verb: &'static str,
    /// The subresource of `nodes`.
    pub subresource: &'static str,
    /// The node's name.
    pub node: Arc<str>,
}

/// Authentication and authorization, with their caches. One for all nodes of a process.
pub struct Auth {
    reviews: Arc<dyn Reviews>,
    /// By SHA-256 of the token, so that no token lies around in memory.
    tokens: TtlCache<[u8; 32], Option<User>>,
    decisions: TtlCache<Question, bool>,
    metrics: Metrics,
}

/// Why a request goes no further; the message is the kubelet's answer.
#[derive(Debug, thiserror::Error)]
enum Denial {
    #[error("Unauthorized")]
    Unauthorized,
    #[error("Authentication error")]
    AuthenticationFailed(#[source] ReviewError),
    #[error("Authorization error (user={user}, verb={verb}, resource=nodes, subresource={subresource})")]
    AuthorizationFailed {
        user: String,
        verb: &'static str,
        subresource: &'static str,
        #[source]
        source: ReviewError,
    },
    #[error("Forbidden (user={user}, verb={verb}, resource=nodes, subresource(s)=[{}])\n", .subresources.join(" "))]
    Forbidden {
        user: String,
        verb: &'static str,
        subresources: &'static [&'static str],
    },
}

/// What the middleware needs: the rules and the node they are asked for.
#[derive(Clone)]
pub(crate) struct Guard {
    pub(crate) auth: Arc<Auth>,
    pub(crate) node: Arc<str>,
}

// === impl Auth ===

impl Auth {
    /// Asks `reviews` whatever is not in the caches.
    #[must_use]
    pub fn new(reviews: Arc<dyn Reviews>, metrics: Metrics) -> Self {
        Self {
            reviews,
            tokens: TtlCache::new(CACHE_ENTRIES),
            decisions: TtlCache::new(CACHE_ENTRIES),
            metrics,
        }
    }

    async fn check(&self, node: &Arc<str>, request: &Parts) -> Result<(), Denial> {
        let user = self.authenticate(request).await?;
        self.authorize(user, node, Access::of(&request.method, request.uri.path()))
            .await
    }

    /// The verified client certificate, else the bearer token.
    async fn authenticate(&self, request: &Parts) -> Result<User, Denial> {
        if let Some(peer) = request.extensions.get::<Peer>() {
            return Ok(User::from(peer));
        }
        let token = bearer(&request.headers).ok_or(Denial::Unauthorized)?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
        let key = <[u8; 32]>::try_from(digest.as_ref()).map_err(|_| Denial::Unauthorized)?;
        let review = async {
            let user = self.reviews.token(token).await?;
            Ok((user, TOKEN_TTL))
        };
        let user = self.tokens.get_or_load(&key, review).await.map_err(|error| {
            self.metrics.review_failed(Review::Token);
            Denial::AuthenticationFailed(error)
        })?;
        user.ok_or(Denial::Unauthorized)
    }

    /// Allowed at the first subresource that is.
    async fn authorize(&self, user: User, node: &Arc<str>, access: Access) -> Result<(), Denial> {
        let Access { verb, subresources } = access;
        for &subresource in subresources {
            let question = Question {
                user: user.clone(),
                verb,
                subresource,
                node: Arc::clone(node),
            };
            let review = async {
                let allowed = self.reviews.access(&question).await?;
                Ok((allowed, if allowed { ALLOWED_TTL } else { DENIED_TTL }))
            };
            match self.decisions.get_or_load(&question, review).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(source) => {
                    self.metrics.review_failed(Review::Access);
                    return Err(Denial::AuthorizationFailed {
                        user: user.name,
                        verb,
                        subresource,
                        source,
                    });
                }
            }
        }
        Err(Denial::Forbidden {
            user: user.name,
            verb,
            subresources,
        })
    }
}

/// The bearer token of a request, as Kubernetes reads the header: the first one, scheme in any case, token up to
/// the next space.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut words = headers.get(AUTHORIZATION)?.to_str().ok()?.trim().splitn(3, ' ');
    let scheme = words.next()?;
    let token = words.next()?;
    let usable = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= MAX_TOKEN;
    usable.then_some(token)
}

// === impl User ===

impl From<&Peer> for User {
    fn from(peer: &Peer) -> Self {
        let mut groups = peer.groups.clone();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self {
            name: peer.user.clone(),
            groups,
            ..Self::default()
        }
    }
}

// === impl Denial ===

impl Denial {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden { .. } => StatusCode::FORBIDDEN,
            Self::AuthenticationFailed(source) | Self::AuthorizationFailed { source, .. } => {
                tracing::warn!(error = %self, cause = %source, "a review failed");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        text(status, self.to_string()).into_response()
    }
}

/// Middleware: only requests that may pass reach the routes, the 404 included.
pub(crate) async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match guard.auth.check(&guard.node, &parts).await {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(denial) => denial.into_response(),
    }
}
