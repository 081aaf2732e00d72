//! The authorization code with PKCE (RFC 6749, 4.1; RFC 7636): a browser is sent here, somebody signs in,
//! and the client gets a code that only it can turn into tokens.

use axum::{
    Router,
    body::Bytes,
    extract::{RawQuery, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing,
};
use reqwest::Url;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::{form, page};
use crate::{
    OperationalError, Services,
    database::{Micros, sql},
    http::{ErrorBody, Failure},
    identity::{
        accounts::{self, AccountRow},
        clients::{self, ClientRow},
        permissions::Permissions,
        secrets,
        sign_in::{self, Session, Tried},
    },
};

/// How long a code is good.
const CODE_MICROS: i64 = 60 * 1_000_000;
const STATE_LENGTH_MAX: usize = 2_000;
/// The cookie of a browser that is signed in.
const SESSION_COOKIE: &str = "medlake_session";
/// The cookie that shows that a form is of a page we gave.
const FORM_COOKIE: &str = "medlake_form";

/// What a client asks for.
#[derive(Debug, Clone, Default, Deserialize, IntoParams, ToSchema)]
pub(crate) struct Request {
    /// The client's name for itself.
    client_id: Option<String>,
    /// Where the answer goes: letter by letter one of the client's.
    redirect_uri: Option<String>,
    /// `code`.
    response_type: Option<String>,
    /// What the token shall grant; all that can be when left out.
    scope: Option<String>,
    /// Given back as it is.
    state: Option<String>,
    /// The hash of what the client will show for the code (RFC 7636).
    code_challenge: Option<String>,
    /// `S256`.
    code_challenge_method: Option<String>,
    /// Given back in the identity token.
    nonce: Option<String>,
    /// `login` to sign in again, `none` to ask nobody.
    prompt: Option<String>,
}

/// The form of the sign-in page.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct LoginForm {
    client_id: Option<String>,
    redirect_uri: Option<String>,
    response_type: Option<String>,
    scope: Option<String>,
    state: Option<String>,
    code_challenge: Option<String>,
    code_challenge_method: Option<String>,
    nonce: Option<String>,
    /// What the page was given with.
    form_token: Option<String>,
    login: Option<String>,
    password: Option<String>,
    new_password: Option<String>,
}

/// A request that may be answered: its client is known, and so is the address of the answer.
struct Asked {
    client: ClientRow,
    redirect_uri: String,
    request: Request,
}

/// A request that is in order.
struct Good {
    scope: String,
    code_challenge: String,
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/oauth2/authorize", routing::get(get))
        .route("/oauth2/login", routing::post(post_login))
        .route("/oauth2/logout", routing::post(post_logout))
}

/// Ask somebody to sign in. Answered with a page, or a redirect to the client.
#[utoipa::path(get, path = "/oauth2/authorize", tag = "oauth2", params(Request),
    responses((status = 200, description = "the sign-in page", content_type = "text/html", body = String),
        (status = 303, description = "to the client, with a code or an error"),
        (status = 400, description = "a page: the client or its address is not known",
            content_type = "text/html", body = String),
        (status = "default", body = ErrorBody)))]
pub(crate) async fn get(
    State(services): State<Services>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let Ok(request) = form::<Request>(query.unwrap_or_default().as_bytes()) else {
        return Ok(unusable("请求有误 The request cannot be read"));
    };
    let asked = match asked(&services, request).await? {
        Ok(asked) => asked,
        Err(page) => return Ok(page),
    };
    let good = match asked.check() {
        Ok(good) => good,
        Err((error, description)) => return Ok(asked.refuse(&services, error, description)),
    };
    let prompt = asked.request.prompt.as_deref().unwrap_or_default();
    if prompt != "login"
        && let Some(token) = cookie(&headers, SESSION_COOKIE)
    {
        let mut on = services.identity().read().await?;
        let session = sign_in::session(&mut on, services.now(), &token).await?;
        drop(on);
        // Who is signed in with another tenant is nobody here.
        if let Some(session) = session.filter(|s| s.tenant_id == asked.client.tenant_id) {
            return Ok(asked.grant(&services, &good, &session).await?);
        }
    }
    if prompt == "none" {
        return Ok(asked.refuse(&services, "login_required", "nobody is signed in"));
    }
    Ok(asked.show(&services, StatusCode::OK, "", None, false)?)
}

/// Sign in, from the page.
#[utoipa::path(post, path = "/oauth2/login", tag = "oauth2",
    request_body(content = LoginForm, content_type = "application/x-www-form-urlencoded"),
    responses((status = 303, description = "to the client, with a code"),
        (status = 400, description = "a page", content_type = "text/html", body = String),
        (status = 403, description = "the page again: not signed in", content_type = "text/html",
            body = String),
        (status = 429, description = "the page again: too many attempts",
            content_type = "text/html", body = String),
        (status = "default", body = ErrorBody)))]
pub(crate) async fn post_login(
    State(services): State<Services>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let Ok(form) = form::<LoginForm>(&body) else {
        return Ok(unusable("请求有误 The form cannot be read"));
    };
    let request = Request {
        client_id: form.client_id,
        redirect_uri: form.redirect_uri,
        response_type: form.response_type,
        scope: form.scope,
        state: form.state,
        code_challenge: form.code_challenge,
        code_challenge_method: form.code_challenge_method,
        nonce: form.nonce,
        prompt: None,
    };
    let asked = match asked(&services, request).await? {
        Ok(asked) => asked,
        Err(page) => return Ok(page),
    };
    let good = match asked.check() {
        Ok(good) => good,
        Err((error, description)) => return Ok(asked.refuse(&services, error, description)),
    };
    let login = form.login.unwrap_or_default();
    let again = |status, problem, new_password| {
        asked.show(&services, status, &login, Some(problem), new_password)
    };
    let ours = cookie(&headers, FORM_COOKIE)
        .zip(form.form_token)
        .is_some_and(|(cookie, token)| secrets::are_equal(&cookie, &token));
    if !ours || !is_from_here(&services, &headers) {
        return Ok(again(
            StatusCode::FORBIDDEN,
            "页面已过期，请重试 The page was too old; try again",
            false,
        )?);
    }
    let password = form.password.unwrap_or_default();
    let tenant_id = asked.client.tenant_id;
    let account = match sign_in::attempt(&services, tenant_id, &login, password.clone()).await? {
        Tried::Good(account) => account,
        Tried::Wrong => {
            let problem = "账号或密码不正确 Login or password is wrong";
            return Ok(again(StatusCode::FORBIDDEN, problem, false)?);
        }
        Tried::Locked(until) => {
            let problem = "尝试次数过多，请稍后再试 Too many attempts; try again later";
            let mut page = again(StatusCode::TOO_MANY_REQUESTS, problem, false)?;
            let seconds = (until.0 - services.now()).max(0) / 1_000_000 + 1;
            page.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            return Ok(page);
        }
    };
    if account.must_change_password {
        let chosen = form.new_password.filter(|new| !new.is_empty());
        let problem = match chosen {
            None => "请设置新密码 Choose a new password".to_owned(),
            Some(new) => match sign_in::change_password(&services, &account, password, new).await {
                Ok(_) => String::new(),
                Err(OperationalError::Invalid { message }) => message,
                Err(error) => return Err(error.into()),
            },
        };
        if !problem.is_empty() {
            return Ok(again(StatusCode::FORBIDDEN, &problem, true)?);
        }
    }
    signed_in(&services, &asked, &good, &account).await.map_err(Failure)
}

async fn signed_in(
    services: &Services,
    asked: &Asked,
    good: &Good,
    account: &AccountRow,
) -> Result<Response, OperationalError> {
    let mut tx = services.identity().begin(services.now()).await?;
    let (session, token) = sign_in::begin(&mut tx, services.now(), account).await?;
    tx.commit().await?;
    let mut answer = asked.grant(services, good, &session).await?;
    let life = (session.expires_at.0 - services.now()) / 1_000_000;
    set_cookie(services, &mut answer, SESSION_COOKIE, &token, "Lax", life);
    set_cookie(services, &mut answer, FORM_COOKIE, "", "Strict", 0);
    Ok(answer)
}

/// Sign a browser out; the tokens that came of it are renewed no more.
#[utoipa::path(post, path = "/oauth2/logout", tag = "oauth2",
    responses((status = 200, description = "a page", content_type = "text/html", body = String),
        (status = "default", body = ErrorBody)))]
pub(crate) async fn post_logout(
    State(services): State<Services>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    // A browser sends the cookie only from our own pages.
    if let Some(token) = cookie(&headers, SESSION_COOKIE) {
        let now = services.now();
        let mut tx = services.identity().begin(now).await?;
        if let Some(session) = sign_in::session(&mut tx, now, &token).await? {
            sign_in::end(&mut tx, now, session.session_id).await?;
        }
        tx.commit().await?;
    }
    let mut answer =
        page::say(StatusCode::OK, "已退出 Signed out", "可以关闭此页面。 You may close this page.");
    set_cookie(&services, &mut answer, SESSION_COOKIE, "", "Lax", 0);
    Ok(answer)
}

/// What is told to the person, not to an address that nobody vouches for (RFC 6749, 3.1.2.4).
fn unusable(text: &str) -> Response {
    page::say(StatusCode::BAD_REQUEST, "无法登录 Cannot sign in", text)
}

async fn asked(
    services: &Services,
    request: Request,
) -> Result<Result<Asked, Response>, OperationalError> {
    let mut on = services.identity().read().await?;
    let client = match &request.client_id {
        Some(key) => clients::by_key(&mut on, key).await?,
        None => None,
    };
    let Some(client) = client else {
        return Ok(Err(unusable("应用未注册 The application is not known")));
    };
    let known = client.redirects().find(|uri| Some(*uri) == request.redirect_uri.as_deref());
    let Some(redirect_uri) = known.map(str::to_owned) else {
        return Ok(Err(unusable("回调地址未注册 The application's address is not known")));
    };
    Ok(Ok(Asked { client, redirect_uri, request }))
}

impl Asked {
    fn check(&self) -> Result<Good, (&'static str, &'static str)> {
        let Request { response_type, code_challenge, code_challenge_method, .. } = &self.request;
        let long =
            |text: &Option<String>| text.as_ref().is_some_and(|text| text.len() > STATE_LENGTH_MAX);
        if long(&self.request.state) || long(&self.request.nonce) || long(&self.request.scope) {
            return Err(("invalid_request", "state, nonce and scope have at most 2000 bytes"));
        }
        match response_type.as_deref() {
            Some("code") => {}
            None => return Err(("invalid_request", "response_type is missing")),
            Some(_) => return Err(("unsupported_response_type", "response_type must be code")),
        }
        if code_challenge_method.as_deref() != Some("S256") {
            return Err(("invalid_request", "code_challenge_method must be S256"));
        }
        let challenge = code_challenge.as_deref().unwrap_or_default();
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if challenge.len() != 43 || !challenge.chars().all(fits) {
            return Err(("invalid_request", "code_challenge must be a SHA-256 in base64url"));
        }
        let scope = match self.request.scope.as_deref() {
            None | Some("") => self.client.permissions.clone(),
            Some(asked) => {
                let words = asked.split_ascii_whitespace().filter(|word| *word != "openid");
                let permissions = Permissions::parse(&words.collect::<Vec<_>>().join(" "));
                if permissions.is_err() {
                    return Err(("invalid_scope", "scope has a word that is no permission"));
                }
                asked.to_owned()
            }
        };
        Ok(Good { scope, code_challenge: challenge.to_owned() })
    }

    fn show(
        &self,
        services: &Services,
        status: StatusCode,
        login: &str,
        problem: Option<&str>,
        new_password: bool,
    ) -> Result<Response, OperationalError> {
        let form_token = secrets::token()?;
        let request = &self.request;
        let mut hidden: Vec<(&'static str, &str)> = [
            ("client_id", &request.client_id),
            ("redirect_uri", &request.redirect_uri),
            ("response_type", &request.response_type),
            ("scope", &request.scope),
            ("state", &request.state),
            ("code_challenge", &request.code_challenge),
            ("code_challenge_method", &request.code_challenge_method),
            ("nonce", &request.nonce),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_deref()?)))
        .collect();
        hidden.push(("form_token", &form_token));
        let page = page::SignIn {
            client: &self.client.name,
            redirect_uri: &self.redirect_uri,
            hidden,
            login,
            problem,
            new_password,
        };
        let mut answer = page.answer(status);
        set_cookie(services, &mut answer, FORM_COOKIE, &form_token, "Strict", 3600);
        Ok(answer)
    }

    /// Sends the browser on with a code.
    async fn grant(
        &self,
        services: &Services,
        good: &Good,
        session: &Session,
    ) -> Result<Response, OperationalError> {
        let code = secrets::token()?;
        let now = services.now();
        let mut tx = services.identity().begin(now).await?;
        accounts::find(&mut tx, session.tenant_id, session.account_id).await?;
        sql("delete from authorization_code where expires_at < ?1")
            .bind(Micros(now - 3600 * 1_000_000))
            .execute(&mut tx)
            .await?;
        sql("insert into authorization_code (code_hash, tenant_id, client_id, session_id, redirect_uri,
                 scope, code_challenge, nonce, expires_at, family_id)
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")
        .bind(secrets::hash(&code))
        .bind(session.tenant_id)
        .bind(self.client.client_id)
        .bind(session.session_id)
        .bind(&self.redirect_uri)
        .bind(&good.scope)
        .bind(&good.code_challenge)
        .bind(&self.request.nonce)
        .bind(Micros(now + CODE_MICROS))
        .bind(secrets::token()?)
        .execute(&mut tx)
        .await?;
        tx.commit().await?;
        Ok(self.redirect(services, &[("code", &code)]))
    }

    fn refuse(&self, services: &Services, error: &str, description: &str) -> Response {
        self.redirect(services, &[("error", error), ("error_description", description)])
    }

    fn redirect(&self, services: &Services, with: &[(&str, &str)]) -> Response {
        let Ok(mut to) = Url::parse(&self.redirect_uri) else {
            return unusable("回调地址有误 The application's address cannot be used");
        };
        {
            let mut pairs = to.query_pairs_mut();
            pairs.extend_pairs(with);
            if let Some(state) = &self.request.state {
                pairs.append_pair("state", state);
            }
            // RFC 9207: a client of several servers knows whose answer it is.
            pairs.append_pair("iss", &services.options().issuer);
        }
        let mut answer = Redirect::to(to.as_str()).into_response();
        let headers = answer.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        answer
    }
}

/// Whether a browser says that a form was sent from a page of ours; older ones say nothing.
fn is_from_here(services: &Services, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let ours = Url::parse(&services.options().issuer).map(|url| url.origin().ascii_serialization());
    // A page without a referrer has no origin either.
    origin.to_str().is_ok_and(|origin| origin == "null" || Ok(origin) == ours.as_deref())
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|cookies| cookies.to_str().ok())
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|cookie| cookie.trim().split_once('='))
        .find(|(found, value)| *found == name && !value.is_empty())
        .map(|(_, value)| value.to_owned())
}

fn set_cookie(
    services: &Services,
    answer: &mut Response,
    name: &str,
    value: &str,
    same_site: &str,
    life_seconds: i64,
) {
    let secure = if services.options().issuer.starts_with("https:") { "; Secure" } else { "" };
    let cookie = format!(
        "{name}={value}; Path=/oauth2; HttpOnly; SameSite={same_site}; Max-Age={life_seconds}{secure}"
    );
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        answer.headers_mut().append(header::SET_COOKIE, cookie);
    }
}
