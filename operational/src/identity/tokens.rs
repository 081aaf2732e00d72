//! Access tokens: JWT as RFC 9068 has them, signed with ES256.

use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header, encode};
use serde::{Deserialize, Serialize};

use super::{
    keys,
    permissions::{Permission, Permissions},
    secrets,
};
use crate::{
    Actor, OperationalError, Services,
    database::{Connection, Micros, sql},
};

/// Whom tokens are for.
pub(crate) const AUDIENCE: &str = "medlake";
/// How long a token is good, in seconds. What is taken from somebody is still theirs for so long.
pub(crate) const LIFE_SECONDS: i64 = 600;
/// The type of an access token: no other JWT is one.
const TYPE: &str = "at+jwt";

/// What a token says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Claims {
    /// Who made it.
    pub(crate) iss: String,
    /// Who acts: `person:7` or `client:3`.
    pub(crate) sub: String,
    /// Whom it is for.
    pub(crate) aud: String,
    /// Seconds since 1970 at which it is no longer good.
    pub(crate) exp: i64,
    /// Seconds since 1970 from which it is good.
    pub(crate) nbf: i64,
    /// Seconds since 1970 at which it was made.
    pub(crate) iat: i64,
    /// No other token's.
    pub(crate) jti: String,
    /// The client it was given to.
    pub(crate) client_id: String,
    /// The tenant whose rows it opens.
    pub(crate) tenant_id: i64,
    /// What it grants: permissions, separated by spaces.
    pub(crate) scope: String,
}

/// Whose a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Person(i64),
    Client(i64),
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Person(id) => write!(f, "person:{id}"),
            Self::Client(id) => write!(f, "client:{id}"),
        }
    }
}

impl Subject {
    fn parse(text: &str) -> Option<Self> {
        let (kind, id) = text.split_once(':')?;
        let id = id.parse().ok()?;
        match kind {
            "person" => Some(Self::Person(id)),
            "client" => Some(Self::Client(id)),
            _ => None,
        }
    }
}

/// Who shows a good token, and what it grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bearer {
    pub(crate) tenant_id: i64,
    pub(crate) subject: Subject,
    pub(crate) may: Permissions,
}

impl Bearer {
    /// As whom they do what `permission` allows: as one who has it, or, where those may do it for
    /// themselves who buy and are cared for, as a customer.
    pub(crate) fn actor(self, permission: Permission, for_oneself: bool) -> Option<Actor> {
        match self.subject {
            Subject::Person(person_id) if self.may.contains(permission) => {
                Some(Actor::Staff { person_id })
            }
            Subject::Client(client_id) if self.may.contains(permission) => {
                Some(Actor::Client { client_id })
            }
            Subject::Person(person_id) if for_oneself && self.may.contains(Permission::Own) => {
                Some(Actor::Customer { person_id })
            }
            _ => None,
        }
    }

    /// As whom they do what is about themselves.
    pub(crate) fn person(self) -> Option<Actor> {
        match self.subject {
            Subject::Person(person_id) if self.may == Permissions::from_iter([Permission::Own]) => {
                Some(Actor::Customer { person_id })
            }
            Subject::Person(person_id) => Some(Actor::Staff { person_id }),
            Subject::Client(_) => None,
        }
    }
}

/// Makes a token.
///
/// # Errors
/// What the database says.
pub(crate) async fn make(
    services: &Services,
    subject: Subject,
    client_key: &str,
    tenant_id: i64,
    may: Permissions,
) -> Result<String, OperationalError> {
    let now = services.now() / 1_000_000;
    let claims = Claims {
        iss: services.options().issuer.clone(),
        sub: subject.to_string(),
        aud: AUDIENCE.to_owned(),
        exp: now + LIFE_SECONDS,
        nbf: now,
        iat: now,
        jti: secrets::token()?,
        client_id: client_key.to_owned(),
        tenant_id,
        scope: may.to_string(),
    };
    sign(services, TYPE, &claims).await
}

/// Signs what is said, as a JWT of this type.
///
/// # Errors
/// What the database says.
pub(crate) async fn sign(
    services: &Services,
    of_type: &str,
    claims: &impl Serialize,
) -> Result<String, OperationalError> {
    let keys = keys::keys(services).await?;
    let mut header = Header::new(Algorithm::ES256);
    header.typ = Some(of_type.to_owned());
    header.kid = Some(keys.current.clone());
    encode(&header, claims, &keys.signs).map_err(|_| OperationalError::Encryption)
}

/// What a token says, if it is one of ours that is good now.
///
/// # Errors
/// What the database says. A token that is not good is none.
pub(crate) async fn read(
    services: &Services,
    token: &str,
) -> Result<Option<Claims>, OperationalError> {
    let Ok(header) = decode_header(token) else { return Ok(None) };
    // What says of itself that it needs no signature, or one of another kind, is not ours.
    if header.alg != Algorithm::ES256 || header.typ.as_deref() != Some(TYPE) {
        return Ok(None);
    }
    let Some(key_id) = header.kid else { return Ok(None) };
    let Some(key) = keys::of_id(services, &key_id).await? else { return Ok(None) };
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_audience(&[AUDIENCE]);
    validation.set_issuer(&[&services.options().issuer]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    // By the services' clock, below.
    validation.validate_exp = false;
    let Ok(read) = decode::<Claims>(token, &key, &validation) else { return Ok(None) };
    let claims = read.claims;
    let now = services.now() / 1_000_000;
    if !(claims.nbf..claims.exp).contains(&now) {
        return Ok(None);
    }
    let revoked: i64 = sql("select count(*) from revoked_token where token_id = ?1")
        .bind(&claims.jti)
        .value(&mut *services.identity().read().await?)
        .await?;
    Ok((revoked == 0).then_some(claims))
}

/// Who shows this token, if it is good.
///
/// # Errors
/// What the database says.
pub(crate) async fn bearer(
    services: &Services,
    token: &str,
) -> Result<Option<Bearer>, OperationalError> {
    let Some(claims) = read(services, token).await? else { return Ok(None) };
    let bearer = |subject| Bearer {
        tenant_id: claims.tenant_id,
        subject,
        may: Permissions::known(&claims.scope),
    };
    Ok(Subject::parse(&claims.sub).map(bearer))
}

/// A token is good no more.
pub(crate) async fn revoke(
    on: &mut Connection,
    now: i64,
    claims: &Claims,
) -> Result<(), OperationalError> {
    sql("insert into revoked_token (token_id, expires_at) values (?1, ?2)
         on conflict (token_id) do nothing")
    .bind(&claims.jti)
    .bind(Micros(claims.exp * 1_000_000))
    .execute(on)
    .await?;
    sql("delete from revoked_token where expires_at < ?1").bind(Micros(now)).execute(on).await?;
    Ok(())
}
