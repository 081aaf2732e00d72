//! The door: who may ask for what, in one table. A service's routes are for its staff; what is for others
//! has a rule of its own, and what has none at all stays shut.

use std::{collections::HashMap, sync::LazyLock};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use tracing::Instrument as _;

use super::{
    Answer, Caller, Failure,
    trace::{self, Trace},
};
use crate::{
    Access, OperationalError, Services,
    identity::{
        Permission::{self, *},
        tokens,
    },
};

/// Who may ask for a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Whoever reaches it. Its handler says itself what it believes.
    Public,
    /// Those who have the permission.
    Staff(Permission),
    /// Those who have it, and customers for themselves: the handler holds them to what is theirs.
    Own(Permission),
    /// Whoever is signed in, about themselves.
    SignedIn,
}
use Rule::{Own as Self_, Public, SignedIn, Staff};

/// What is not for the staff of the service, or more than that.
const RULES: &[(&str, &str, Rule)] = &[
    ("GET", "/healthz", Public),
    ("GET", "/readyz", Public),
    ("GET", "/metrics", Public),
    ("GET", "/openapi.json", Public),
    ("GET", "/.well-known/openid-configuration", Public),
    ("GET", "/.well-known/oauth-authorization-server", Public),
    ("GET", "/.well-known/jwks.json", Public),
    ("GET", "/s/{code}", Public),
    ("GET", "/oauth2/authorize", Public),
    ("POST", "/oauth2/login", Public),
    ("POST", "/oauth2/logout", Public),
    ("POST", "/oauth2/token", Public),
    ("POST", "/oauth2/revoke", Public),
    ("POST", "/oauth2/introspect", Public),
    ("POST", "/identity/register", Public),
    ("GET", "/identity/me", SignedIn),
    ("POST", "/identity/me/password", SignedIn),
    ("GET", "/identity/tenants", Staff(IdentityRead)),
    ("POST", "/identity/tenants", Staff(IdentityWrite)),
    ("GET", "/identity/persons", Staff(IdentityRead)),
    ("POST", "/identity/persons", Staff(IdentityWrite)),
    ("POST", "/identity/persons/find", Staff(IdentityRead)),
    ("GET", "/identity/persons/{id}", Self_(IdentityRead)),
    ("GET", "/identity/persons/{id}/identifiers", Self_(IdentifiersRead)),
    ("GET", "/identity/accounts", Staff(IdentityRead)),
    ("POST", "/identity/accounts", Staff(IdentityWrite)),
    ("GET", "/identity/accounts/{id}", Staff(IdentityRead)),
    ("PUT", "/identity/accounts/{id}", Staff(IdentityWrite)),
    ("POST", "/identity/accounts/{id}/reset-password", Staff(IdentityWrite)),
    ("GET", "/identity/roles", Staff(IdentityRead)),
    ("POST", "/identity/roles", Staff(IdentityWrite)),
    ("PUT", "/identity/roles/{id}", Staff(IdentityWrite)),
    ("GET", "/identity/clients", Staff(IdentityRead)),
    ("POST", "/identity/clients", Staff(IdentityWrite)),
    ("POST", "/identity/clients/{id}/rotate-secret", Staff(IdentityWrite)),
    ("POST", "/identity/clients/{id}/disable", Staff(IdentityWrite)),
    ("GET", "/identity/signing-keys", Staff(Operate)),
    ("POST", "/identity/signing-keys/rotate", Staff(Operate)),
    ("GET", "/identity/master-keys", Staff(Operate)),
    ("POST", "/identity/master-keys/rotate", Staff(Operate)),
    ("DELETE", "/identity/master-keys/{key_id}", Staff(Operate)),
    ("GET", "/outbox/messages", Staff(Operate)),
    ("POST", "/outbox/{service}/messages/{id}/retry", Staff(Operate)),
    ("POST", "/outbox/{service}/messages/{id}/dismiss", Staff(Operate)),
    ("GET", "/configuration/settings", Staff(SettingsRead)),
    ("GET", "/configuration/settings/{key}", Staff(SettingsRead)),
    ("PUT", "/configuration/settings/{key}", Staff(SettingsWrite)),
    ("POST", "/configuration/settings/{key}/reset", Staff(SettingsWrite)),
    ("GET", "/configuration/settings/{key}/history", Staff(SettingsRead)),
    ("POST", "/notifications", Staff(NotificationsWrite)),
    ("GET", "/notifications", Self_(NotificationsRead)),
    ("GET", "/notifications/{id}", Self_(NotificationsRead)),
    ("POST", "/notifications/deliveries/{id}/retry", Staff(NotificationsWrite)),
    ("GET", "/notifications/preferences/{id}", Self_(NotificationsRead)),
    ("PUT", "/notifications/preferences/{id}", Self_(NotificationsWrite)),
    ("GET", "/notifications/templates", Staff(NotificationsRead)),
    ("PUT", "/notifications/templates/{name}", Staff(NotificationsWrite)),
    ("GET", "/notifications/webhooks", Staff(Operate)),
    ("POST", "/notifications/webhooks", Staff(Operate)),
    ("POST", "/notifications/webhooks/{id}/disable", Staff(Operate)),
    ("POST", "/files", Self_(FilesWrite)),
    ("GET", "/files", Self_(FilesRead)),
    ("GET", "/files/{id}", Self_(FilesRead)),
    ("GET", "/files/{id}/content", Self_(FilesRead)),
    ("POST", "/files/{id}/delete", Self_(FilesWrite)),
    // What everybody may see who buys; and what customers do for themselves.
    ("GET", "/mall/pharmacies", Self_(MallRead)),
    ("GET", "/mall/pharmacies/{id}", Self_(MallRead)),
    ("GET", "/mall/products", Self_(MallRead)),
    ("GET", "/mall/products/{id}", Self_(MallRead)),
    ("GET", "/mall/variants/{id}", Self_(MallRead)),
    ("GET", "/mall/campaigns", Self_(MallRead)),
    ("GET", "/mall/campaigns/{id}", Self_(MallRead)),
    ("GET", "/mall/coupons", Self_(MallRead)),
    ("GET", "/mall/coupons/{id}", Self_(MallRead)),
    ("POST", "/mall/coupons/{id}/claims", Self_(MallWrite)),
    ("GET", "/mall/coupon-claims", Self_(MallRead)),
    ("GET", "/mall/prescriptions", Self_(MallRead)),
    ("GET", "/mall/prescriptions/{id}", Self_(MallRead)),
    ("GET", "/mall/carts", Self_(MallRead)),
    ("POST", "/mall/carts/lines", Self_(MallWrite)),
    ("POST", "/mall/carts/checkout", Self_(MallWrite)),
    ("POST", "/mall/quotes", Self_(MallWrite)),
    ("POST", "/mall/orders", Self_(MallWrite)),
    ("GET", "/mall/orders", Self_(MallRead)),
    ("GET", "/mall/orders/{id}", Self_(MallRead)),
    ("POST", "/mall/orders/{id}/close", Self_(MallWrite)),
    ("POST", "/mall/orders/{id}/receive", Self_(MallWrite)),
    ("POST", "/mall/orders/{id}/refund-requests", Self_(MallWrite)),
    ("GET", "/mall/payments", Self_(MallRead)),
    ("GET", "/mall/refunds", Self_(MallRead)),
    ("GET", "/mall/refunds/{id}", Self_(MallRead)),
    ("GET", "/mall/points/accounts/{id}", Self_(MallRead)),
    ("GET", "/mall/points/lots", Self_(MallRead)),
    ("GET", "/mall/points/entries", Self_(MallRead)),
    ("POST", "/mall/visits", Self_(MallWrite)),
    ("GET", "/mall/visits", Self_(MallRead)),
    ("POST", "/mall/visits/{id}/page-views", Self_(MallWrite)),
    ("POST", "/mall/visits/{id}/identify", Self_(MallWrite)),
    // Signed by the payment channel.
    ("POST", "/mall/callbacks/payments", Public),
    // Distributors are customers, too.
    ("GET", "/distribution/distributors", Self_(DistributionRead)),
    ("GET", "/distribution/distributors/{id}", Self_(DistributionRead)),
    ("GET", "/distribution/distributors/{id}/balance", Self_(DistributionRead)),
    ("GET", "/distribution/share-links", Self_(DistributionRead)),
    ("GET", "/distribution/share-links/{id}", Self_(DistributionRead)),
    ("GET", "/distribution/share-links/{id}/qr.png", Self_(DistributionRead)),
    ("GET", "/distribution/touches", Self_(DistributionRead)),
    ("GET", "/distribution/bindings", Self_(DistributionRead)),
    ("GET", "/distribution/commissions", Self_(DistributionRead)),
    ("GET", "/distribution/balances", Self_(DistributionRead)),
    ("GET", "/distribution/entries", Self_(DistributionRead)),
    ("GET", "/distribution/adjustments", Self_(DistributionRead)),
    ("GET", "/distribution/settlements", Self_(DistributionRead)),
    ("GET", "/distribution/settlements/{id}", Self_(DistributionRead)),
    ("GET", "/distribution/payouts", Self_(DistributionRead)),
    ("POST", "/distribution/applications", Self_(DistributionWrite)),
    ("POST", "/distribution/share-links", Self_(DistributionWrite)),
    ("POST", "/distribution/share-links/{id}/end", Self_(DistributionWrite)),
    ("POST", "/distribution/touches", Self_(DistributionWrite)),
    // What patients see of themselves, and do for themselves.
    ("GET", "/chronic-care/patients", Self_(CareRead)),
    ("GET", "/chronic-care/patients/{id}", Self_(CareRead)),
    ("GET", "/chronic-care/patients/{id}/conditions", Self_(CareRead)),
    ("GET", "/chronic-care/patients/{id}/consents", Self_(CareRead)),
    ("POST", "/chronic-care/patients/{id}/consents", Self_(CareWrite)),
    ("POST", "/chronic-care/consents/{id}/withdrawal", Self_(CareWrite)),
    ("POST", "/chronic-care/patients/{id}/erasure", Self_(CareWrite)),
    ("GET", "/chronic-care/patients/{id}/programmes", Self_(CareRead)),
    ("GET", "/chronic-care/programmes/{id}", Self_(CareRead)),
    ("GET", "/chronic-care/follow-ups/{id}/answers", Self_(CareRead)),
    ("GET", "/chronic-care/medication-plans/{id}/changes", Self_(CareRead)),
    ("GET", "/chronic-care/medication-plans/{id}/slots", Self_(CareRead)),
    ("POST", "/chronic-care/medication-plans/{id}/confirmations", Self_(CareWrite)),
    ("GET", "/chronic-care/patients/{id}/readings", Self_(CareRead)),
    ("POST", "/chronic-care/readings", Self_(CareWrite)),
    ("GET", "/chronic-care/devices", Self_(CareRead)),
    ("GET", "/chronic-care/devices/{id}", Self_(CareRead)),
    ("POST", "/chronic-care/devices/{id}/readings", Self_(CareWrite)),
    ("GET", "/chronic-care/alerts", Self_(CareRead)),
    // Names in the clear, for those who must know them; and patients see who did.
    ("GET", "/chronic-care/patients/{id}/identifiers", Self_(IdentifiersRead)),
    ("GET", "/chronic-care/patients/{id}/accesses", Self_(IdentifiersRead)),
    ("POST", "/chronic-care/patients/lookup", Staff(IdentifiersRead)),
];

/// The services whose routes are for their staff: what it takes to see, and to change.
const SERVICES: &[(&str, Permission, Permission)] = &[
    ("/mall/", MallRead, MallWrite),
    ("/distribution/", DistributionRead, DistributionWrite),
    ("/chronic-care/", CareRead, CareWrite),
];

/// The rule of a route, by its method and its path as it is described.
pub(crate) fn rule(method: &str, path: &str) -> Option<Rule> {
    static BY_ROUTE: LazyLock<HashMap<(&str, &str), Rule>> = LazyLock::new(|| {
        RULES.iter().map(|(method, path, rule)| ((*method, *path), *rule)).collect()
    });
    // A route that answers GET answers HEAD as well.
    let method = if method == "HEAD" { "GET" } else { method };
    BY_ROUTE.get(&(method, path)).copied().or_else(|| {
        let (_, read, write) = SERVICES.iter().find(|(prefix, ..)| path.starts_with(prefix))?;
        Some(Staff(if method == "GET" { *read } else { *write }))
    })
}

/// Lets a request in as whom it shows, or answers it; counts it, and says which trace it belongs to.
pub(crate) async fn guard(
    State(services): State<Services>,
    request: Request,
    next: Next,
) -> Response {
    let trace = match Trace::of(request.headers()) {
        Ok(trace) => trace,
        Err(error) => return Failure(error).into_response(),
    };
    let request_id = trace::request_id(request.headers(), trace);
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = path.clone().unwrap_or_else(|| "none".to_owned());
    let method = request.method().to_string();
    let span = tracing::info_span!("request", method, route, trace = trace.id(), request_id);
    let began = tokio::time::Instant::now();
    let let_in = admitted(&services, request, path.as_deref(), trace, next);
    let mut answer = let_in.instrument(span.clone()).await;
    let status = answer.status();
    services.requests().count(&method, &route, status.as_u16(), began.elapsed());
    if status.is_server_error() {
        span.in_scope(|| tracing::error!(status = status.as_u16(), "a request failed"));
    }
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        answer.headers_mut().insert("x-request-id", id);
    }
    answer
}

async fn admitted(
    services: &Services,
    mut request: Request,
    path: Option<&str>,
    trace: Trace,
    next: Next,
) -> Response {
    // What is at no route is answered so by the router, whoever asks.
    if let Some(path) = path {
        let caller = match services.options().access {
            Access::Open => Caller::ANYONE,
            Access::Tokens => {
                let rule = rule(request.method().as_str(), path);
                let token = bearer(&request).map(str::to_owned);
                match caller(services, rule, token.as_deref()).await {
                    Ok(caller) => caller,
                    Err(answer) => return *answer,
                }
            }
        };
        request.extensions_mut().insert(Caller { trace: Some(trace), ..caller });
    }
    next.run(request).await
}

async fn caller(
    services: &Services,
    rule: Option<Rule>,
    token: Option<&str>,
) -> Result<Caller, Box<Response>> {
    if rule == Some(Public) {
        return Ok(Caller::ANYONE);
    }
    let Some(token) = token else {
        return Err(Box::new(challenge("no bearer token is shown", None)));
    };
    let failed = |error| Box::new(Failure(error).into_response());
    let Some(bearer) = tokens::bearer(services, token).await.map_err(failed)? else {
        return Err(Box::new(challenge("the token is not good", Some("invalid_token"))));
    };
    let actor = match rule {
        Some(Staff(permission)) => bearer.actor(permission, false).ok_or(permission),
        Some(Self_(permission)) => bearer.actor(permission, true).ok_or(permission),
        Some(SignedIn) => bearer.person().ok_or(Permission::Own),
        // Nobody decided who may: nobody may.
        Some(Public) | None => Err(Operate),
    };
    match actor {
        Ok(actor) => Ok(Caller { tenant_id: bearer.tenant_id, actor, trace: None }),
        Err(permission) => {
            let error =
                OperationalError::denied(format!("this needs the permission \"{permission}\""));
            let mut answer = failed(error);
            let asked = format!("Bearer error=\"insufficient_scope\", scope=\"{permission}\"");
            if let Ok(asked) = HeaderValue::from_str(&asked) {
                answer.headers_mut().insert(header::WWW_AUTHENTICATE, asked);
            }
            Err(answer)
        }
    }
}

/// The token of a request (RFC 6750, 2.1; not in an address, which is written down everywhere).
fn bearer(request: &Request) -> Option<&str> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

fn challenge(message: &str, error: Option<&str>) -> Response {
    let mut answer =
        Answer::error(StatusCode::UNAUTHORIZED, "unauthenticated", message).into_response();
    let asked = match error {
        None => "Bearer realm=\"medlake\"".to_owned(),
        Some(error) => format!("Bearer realm=\"medlake\", error=\"{error}\""),
    };
    if let Ok(asked) = HeaderValue::from_str(&asked) {
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, asked);
    }
    answer
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Every described route has a rule, and every rule is of a described route.
    #[test]
    fn no_route_is_without_a_rule() {
        let description = serde_json::to_value(crate::openapi()).unwrap();
        let mut routes = HashSet::new();
        for (path, methods) in description["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                routes.insert((method.to_uppercase(), path.clone()));
            }
        }
        // Described nowhere: the description itself.
        routes.insert(("GET".to_owned(), "/openapi.json".to_owned()));
        let shut: Vec<_> =
            routes.iter().filter(|(method, path)| rule(method, path).is_none()).collect();
        assert!(shut.is_empty(), "add these routes to RULES: {shut:#?}");
        let unknown: Vec<_> = RULES
            .iter()
            .filter(|(method, path, _)| {
                !routes.contains(&((*method).to_owned(), (*path).to_owned()))
            })
            .collect();
        assert!(unknown.is_empty(), "there is no such route: {unknown:#?}");
        let different: HashSet<_> = RULES.iter().map(|(method, path, _)| (method, path)).collect();
        assert_eq!(different.len(), RULES.len(), "a route has two rules");
    }
}
