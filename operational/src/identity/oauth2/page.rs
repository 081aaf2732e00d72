//! The page on which people sign in. Plain HTML that works without scripts, by keyboard and read aloud.

use aws_lc_rs::digest;
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};

const STYLE: &str = "body{font:1.05rem/1.6 system-ui,sans-serif;color:#1b1f24;background:#f4f6f8;margin:0}\
main{max-width:24rem;margin:8vh auto;padding:2rem;background:#fff;border:1px solid #c9d1d9;border-radius:.5rem}\
h1{font-size:1.4rem;margin:0 0 1rem}label{display:block;margin:1rem 0 .25rem;font-weight:600}\
input{font:inherit;width:100%;box-sizing:border-box;padding:.5rem;border:1px solid #57606a;border-radius:.25rem}\
button{font:inherit;font-weight:600;margin-top:1.5rem;width:100%;padding:.6rem;color:#fff;background:#0b57a4;border:0;border-radius:.25rem}\
:focus-visible{outline:3px solid #b35900;outline-offset:2px}\
.problem{margin:0;padding:.75rem;border-left:4px solid #a40e26;background:#ffebe9}\
.hint{font-size:.9rem;color:#424a53;margin:.25rem 0 0}";

/// What the sign-in page shows.
#[derive(Debug, Default)]
pub(super) struct SignIn<'a> {
    /// The name of the client that asks.
    pub(super) client: &'a str,
    /// Where the browser is sent afterwards: a form may only lead there.
    pub(super) redirect_uri: &'a str,
    /// What goes with the form, unseen.
    pub(super) hidden: Vec<(&'static str, &'a str)>,
    /// What was entered before.
    pub(super) login: &'a str,
    /// What was wrong with it.
    pub(super) problem: Option<&'a str>,
    /// Whether another password has to be chosen.
    pub(super) new_password: bool,
}

impl SignIn<'_> {
    pub(super) fn answer(&self, status: StatusCode) -> Response {
        let problem = self.problem.map_or_else(String::new, |problem| {
            format!("<p class=\"problem\" role=\"alert\" id=\"problem\">{}</p>", escaped(problem))
        });
        let described = if self.problem.is_some() { " aria-describedby=\"problem\"" } else { "" };
        let hidden: String = self
            .hidden
            .iter()
            .map(|(name, value)| {
                format!("<input type=\"hidden\" name=\"{name}\" value=\"{}\">", escaped(value))
            })
            .collect();
        let new_password = if self.new_password {
            "<label for=\"new_password\">新密码 New password</label>\
             <input id=\"new_password\" name=\"new_password\" type=\"password\" required minlength=\"10\" \
             maxlength=\"128\" autocomplete=\"new-password\" aria-describedby=\"rules\">\
             <p class=\"hint\" id=\"rules\">至少 10 个字符。 At least 10 characters.</p>"
        } else {
            ""
        };
        let body = format!(
            "<h1>登录 Sign in</h1><p>{client}</p>{problem}\
             <form method=\"post\" action=\"/oauth2/login\">{hidden}\
             <label for=\"login\">账号 Login</label>\
             <input id=\"login\" name=\"login\" required maxlength=\"64\" autocomplete=\"username\" \
             autocapitalize=\"none\" spellcheck=\"false\" value=\"{login}\"{described}>\
             <label for=\"password\">密码 Password</label>\
             <input id=\"password\" name=\"password\" type=\"password\" required maxlength=\"128\" \
             autocomplete=\"current-password\"{described}>{new_password}\
             <button type=\"submit\">登录 Sign in</button></form>",
            client = escaped(self.client),
            login = escaped(self.login),
        );
        page(status, &body, self.redirect_uri)
    }
}

/// A page that says one thing.
pub(super) fn say(status: StatusCode, title: &str, text: &str) -> Response {
    let body = format!("<h1>{}</h1><p>{}</p>", escaped(title), escaped(text));
    page(status, &body, "")
}

fn page(status: StatusCode, body: &str, leads_to: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"zh-CN\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>登录 Sign in</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>"
    );
    let style = STANDARD.encode(digest::digest(&digest::SHA256, STYLE.as_bytes()));
    // Browsers hold the whole way of a form to this, the answer's redirect included.
    let origin =
        reqwest::Url::parse(leads_to).ok().map_or_else(String::new, |url| match url.origin() {
            origin if origin.is_tuple() => origin.ascii_serialization(),
            _ => format!("{}:", url.scheme()),
        });
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; form-action 'self' {origin}; \
         frame-ancestors 'none'; base-uri 'none'"
    );
    let mut answer = (status, Html(html)).into_response();
    let headers = answer.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_shown_is_taken_for_markup() {
        assert_eq!(escaped("<a href=\"x\">'&"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;");
    }

    #[test]
    fn a_form_leads_to_the_client_and_nowhere_else() {
        for (to, allowed) in [
            ("https://shop.example/cb?a=b", "form-action 'self' https://shop.example;"),
            ("com.example.app:/cb", "form-action 'self' com.example.app:;"),
            ("", "form-action 'self' ;"),
        ] {
            let answer = page(StatusCode::OK, "", to);
            let policy = answer.headers()["content-security-policy"].to_str().unwrap();
            assert!(policy.contains(allowed), "{policy}");
        }
    }
}
