//! How something is told: by a line in the log, or by a signed request to an address of the tenant.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use async_trait::async_trait;
use aws_lc_rs::hmac;
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use serde::Serialize;

use super::ChannelKind;

/// How long an address has to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is told.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Outgoing {
    pub(super) delivery_id: i64,
    pub(super) notification_id: i64,
    pub(super) tenant_id: i64,
    pub(super) person_id: Option<i64>,
    pub(super) template: String,
    pub(super) title: String,
    pub(super) body: String,
    pub(super) created_at: i64,
    #[serde(skip)]
    pub(super) traceparent: Option<String>,
    /// Where to, of a webhook, and what to sign with.
    #[serde(skip)]
    pub(super) target: Option<(String, [u8; 32])>,
    /// Seconds since 1970.
    #[serde(skip)]
    pub(super) now: i64,
}

/// Why something did not arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NotArrived {
    pub(super) problem: String,
    /// Whether it may arrive when it is tried again.
    pub(super) passing: bool,
}

/// A way to tell something. It may be asked to tell the same again, and does so.
#[async_trait]
pub(super) trait Channel: Send + Sync {
    /// Which it is.
    fn kind(&self) -> ChannelKind;

    /// Tells it. Once this answers well, it is not asked again.
    async fn tell(&self, what: &Outgoing) -> Result<(), NotArrived>;
}

/// A line in the log: the heading, not the text, which may say more than a log should.
pub(super) struct Log;

#[async_trait]
impl Channel for Log {
    fn kind(&self) -> ChannelKind {
        ChannelKind::Log
    }

    async fn tell(&self, what: &Outgoing) -> Result<(), NotArrived> {
        tracing::info!(
            notification_id = what.notification_id,
            tenant_id = what.tenant_id,
            person_id = what.person_id,
            template = what.template,
            title = what.title,
            trace = what.traceparent.as_deref(),
            "a notification"
        );
        Ok(())
    }
}

/// A signed request.
pub(super) struct Webhook {
    client: reqwest::Client,
    private: bool,
}

impl Webhook {
    /// One that reaches public addresses, and with `private` those of its own network too.
    pub(super) fn new(private: bool) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .timeout(PATIENCE)
            // An answer that leads elsewhere would lead past the check of the address.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .dns_resolver(Checked { private })
            .build()?;
        Ok(Self { client, private })
    }
}

#[async_trait]
impl Channel for Webhook {
    fn kind(&self) -> ChannelKind {
        ChannelKind::Webhook
    }

    async fn tell(&self, what: &Outgoing) -> Result<(), NotArrived> {
        let for_good = |problem: &str| NotArrived { problem: problem.to_owned(), passing: false };
        let (address, secret) =
            what.target.as_ref().ok_or_else(|| for_good("there is no address"))?;
        let url = Url::parse(address).map_err(|_| for_good("the address cannot be read"))?;
        // An address that is a number is not looked up, so it is checked here.
        let host = url.host_str().unwrap_or_default();
        let number: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        if number.is_some_and(|ip| !may_reach(ip, self.private)) {
            return Err(for_good("the address is of a private network"));
        }
        let body = serde_json::to_string(what).map_err(|_| for_good("it cannot be written"))?;
        let mut request = self
            .client
            .post(url)
            .header("content-type", "application/json")
            .header("medlake-delivery", what.delivery_id)
            .header("medlake-signature", signature(secret, what.now, &body));
        if let Some(trace) = &what.traceparent {
            request = request.header("traceparent", trace);
        }
        let passing = |problem: String| NotArrived { problem, passing: true };
        let answer = request.body(body).send().await.map_err(|error| {
            let text = format!("{:#}", Chain(&error));
            NotArrived { passing: !text.contains(PRIVATE), problem: text }
        })?;
        let status = answer.status();
        match status.as_u16() {
            200..300 => Ok(()),
            // What the receiver will never take; but it may be busy, or be mended.
            400..500 if ![408, 425, 429].contains(&status.as_u16()) => {
                Err(for_good(&format!("answered with {status}")))
            }
            _ => Err(passing(format!("answered with {status}"))),
        }
    }
}

/// `t=<seconds>,v1=<hex>`: HMAC-SHA-256 of the seconds, a dot and the body. Whoever receives refuses what
/// is minutes old, so that nothing seen on the way is sent again.
pub(super) fn signature(secret: &[u8; 32], seconds: i64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, format!("{seconds}.{body}").as_bytes());
    format!("t={seconds},v1={}", hex::encode(tag))
}

const PRIVATE: &str = "the name is of a private network";

/// Looks names up and leaves out addresses that must not be reached: what is checked is what is
/// connected to, so a name cannot become another address in between.
struct Checked {
    private: bool,
}

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let private = self.private;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let found: Vec<SocketAddr> = found.filter(|to| may_reach(to.ip(), private)).collect();
            if found.is_empty() {
                return Err(PRIVATE.into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Whether a webhook may be at an address.
fn may_reach(ip: IpAddr, private: bool) -> bool {
    let ip = ip.to_canonical();
    if private {
        return !ip.is_unspecified() && !ip.is_multicast();
    }
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let benchmark = a == 198 && (18..20).contains(&b);
            !(ip.is_loopback()
                || ip.is_private()
                || ip.is_link_local()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip.is_documentation()
                || a == 0
                || a >= 240
                || shared
                || benchmark)
        }
        IpAddr::V6(ip) => {
            // Global unicast only, without what wraps addresses of version 4.
            let [first, second, ..] = ip.segments();
            (0x2000..0x4000).contains(&first)
                && !(first == 0x2001 && (second == 0 || second == 0xdb8))
                && first != 0x2002
        }
    }
}

/// An error with its causes.
struct Chain<'a>(&'a reqwest::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the error's own text: that has the address, and addresses may have secrets.
        let mut cause = std::error::Error::source(self.0);
        f.write_str("could not be sent")?;
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_out_of_reach_unless_allowed() {
        for ip in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.1.1",
            "172.16.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "fe80::1",
            "fd00::1",
            "::ffff:169.254.169.254",
            "::ffff:127.0.0.1",
            "2002:7f00:1::",
            "::",
        ] {
            assert!(!may_reach(ip.parse().unwrap(), false), "{ip}");
        }
        for ip in ["93.184.216.34", "8.8.8.8", "2606:4700::1111"] {
            assert!(may_reach(ip.parse().unwrap(), false), "{ip}");
        }
        assert!(may_reach("127.0.0.1".parse().unwrap(), true));
        assert!(may_reach("10.1.2.3".parse().unwrap(), true));
        assert!(!may_reach("0.0.0.0".parse().unwrap(), true));
    }

    #[test]
    fn a_signature_is_over_time_and_body() {
        let secret = [7; 32];
        let signed = signature(&secret, 1_795_219_200, "{}");
        assert!(signed.starts_with("t=1795219200,v1=") && signed.len() == 16 + 64, "{signed}");
        assert_ne!(signed, signature(&secret, 1_795_219_201, "{}"));
        assert_ne!(signed, signature(&[8; 32], 1_795_219_200, "{}"));
    }
}
