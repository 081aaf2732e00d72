//! Signing in: the password is tried, wrong ones are counted, and a browser gets a session.

use super::{
    accounts::{self, AccountRow, AccountState},
    passwords, secrets,
};
use crate::{
    OperationalError, Services, WriteTransaction,
    database::{Connection, Micros, insert_one, record, sql},
};

/// Wrong passwords in a row that cost nothing.
const FREE_FAILURES: i64 = 5;
/// How long no password is tried after the first that costs; twice as long after each further one.
const LOCK_MICROS: i64 = 30 * 1_000_000;
const LOCK_MICROS_MAX: i64 = 3600 * 1_000_000;
/// How long a browser stays signed in.
const SESSION_MICROS: i64 = 12 * 3600 * 1_000_000;

record! {
    /// Somebody signed in with a browser.
    pub(crate) struct Session in "session" {
        pub(crate) session_id: i64,
        pub(crate) tenant_id: i64,
        pub(crate) account_id: i64,
        pub(crate) token_hash: String,
        pub(crate) authenticated_at: Micros,
        pub(crate) expires_at: Micros,
        pub(crate) ended_at: Option<Micros>,
    }
}

/// What came of a login and a password.
#[derive(Debug)]
pub(crate) enum Tried {
    /// They are those of an account.
    Good(AccountRow),
    /// They are not, or the account is disabled: which of it is not told.
    Wrong,
    /// Too many were wrong: none is tried before then.
    Locked(Micros),
}

/// The hash of a password. Few are made at a time: each takes memory, and time of a processor.
pub(crate) async fn hash(
    services: &Services,
    password: String,
) -> Result<String, OperationalError> {
    let cost = services.options().password_cost;
    let _turn = services.password_turn().await;
    let made = tokio::task::spawn_blocking(move || cost.hash(&password)).await;
    made.unwrap_or(Err(OperationalError::Encryption))
}

async fn is_of(password: String, hash: String) -> bool {
    tokio::task::spawn_blocking(move || passwords::is_of(&password, &hash)).await.unwrap_or(false)
}

/// Tries a password. A hash by parameters of before is made anew.
///
/// # Errors
/// What the database says.
pub(crate) async fn attempt(
    services: &Services,
    tenant_id: i64,
    login: &str,
    password: String,
) -> Result<Tried, OperationalError> {
    let cost = services.options().password_cost;
    let turn = services.password_turn().await;
    // Read in turn: whoever tries many at a time does not get past the lock with them.
    let account: Option<AccountRow> =
        sql("select * from account where tenant_id = ?1 and login = ?2")
            .bind(tenant_id)
            .bind(login)
            .first(&mut *services.identity().read().await?)
            .await?;
    let now = services.now();
    let Some(account) = account.filter(|account| account.state == AccountState::Active) else {
        // As long as for an account that is there, so that time does not tell.
        let _ = tokio::task::spawn_blocking(move || cost.hash(&password)).await;
        return Ok(Tried::Wrong);
    };
    if let Some(until) = account.locked_until.filter(|until| until.0 > now) {
        return Ok(Tried::Locked(until));
    }
    let good = is_of(password.clone(), account.password_hash.clone()).await;
    let outdated = good && cost.is_outdated(&account.password_hash);
    let mut tx = services.identity().begin(now).await?;
    if good {
        sql("update account set failed_count = 0, locked_until = null where account_id = ?1")
            .bind(account.account_id)
            .execute(&mut tx)
            .await?;
    } else {
        fail(&mut tx, &account, now).await?;
    }
    tx.commit().await?;
    drop(turn);
    if outdated {
        let made = hash(services, password).await?;
        let mut tx = services.identity().begin(now).await?;
        // Not over one that was set in between.
        sql("update account set password_hash = ?2 where account_id = ?1 and password_hash = ?3")
            .bind(account.account_id)
            .bind(made)
            .bind(&account.password_hash)
            .execute(&mut tx)
            .await?;
        tx.commit().await?;
    }
    Ok(if good { Tried::Good(account) } else { Tried::Wrong })
}

async fn fail(
    tx: &mut WriteTransaction,
    account: &AccountRow,
    now: i64,
) -> Result<(), OperationalError> {
    let failed = accounts::find(tx, account.tenant_id, account.account_id).await?.failed_count + 1;
    sql("update account set failed_count = ?2, locked_until = ?3 where account_id = ?1")
        .bind(account.account_id)
        .bind(failed)
        .bind(lock(failed).map(|micros| Micros(now + micros)))
        .execute(tx)
        .await?;
    Ok(())
}

/// How long no password is tried after so many wrong ones in a row.
fn lock(failed: i64) -> Option<i64> {
    let further = failed - FREE_FAILURES;
    (further >= 0).then(|| LOCK_MICROS << further.min(16)).map(|m| m.min(LOCK_MICROS_MAX))
}

/// Changes a password whose present one is known. Answers whether it is.
///
/// # Errors
/// `Invalid` for what is no password; `Denied` while none is tried.
pub(crate) async fn change_password(
    services: &Services,
    account: &AccountRow,
    current: String,
    new: String,
) -> Result<bool, OperationalError> {
    accounts::check_password(account, &new)?;
    if current == new {
        return Err(OperationalError::invalid("the new password is the one there is"));
    }
    match attempt(services, account.tenant_id, &account.login, current).await? {
        Tried::Good(_) => {}
        Tried::Wrong => return Ok(false),
        Tried::Locked(_) => {
            return Err(OperationalError::denied("too many passwords were wrong; try again later"));
        }
    }
    let hash = hash(services, new).await?;
    let mut tx = services.identity().begin(services.now()).await?;
    accounts::set_password(&mut tx, services.now(), account.account_id, &hash, false).await?;
    tx.commit().await?;
    Ok(true)
}

/// Signs a browser in; gives what it has to show.
pub(crate) async fn begin(
    tx: &mut WriteTransaction,
    now: i64,
    account: &AccountRow,
) -> Result<(Session, String), OperationalError> {
    let token = secrets::token()?;
    let session = Session {
        session_id: tx.id::<Session>(None).await?,
        tenant_id: account.tenant_id,
        account_id: account.account_id,
        token_hash: secrets::hash(&token),
        authenticated_at: Micros(now),
        expires_at: Micros(now + SESSION_MICROS),
        ended_at: None,
    };
    insert_one(tx, &session).await?;
    sql("delete from session where expires_at < ?1 and not exists (
             select 1 from refresh_token r where r.session_id = session.session_id)
             and not exists (
             select 1 from authorization_code c where c.session_id = session.session_id)")
    .bind(Micros(now - 30 * 24 * 3600 * 1_000_000))
    .execute(tx)
    .await?;
    Ok((session, token))
}

/// The session of what a browser shows, if it is one and not over.
pub(crate) async fn session(
    on: &mut Connection,
    now: i64,
    token: &str,
) -> Result<Option<Session>, OperationalError> {
    sql("select s.* from session s join account a on a.account_id = s.account_id
         where s.token_hash = ?1 and s.ended_at is null and s.expires_at > ?2
             and a.state = 'active' and a.must_change_password = ?3")
    .bind(secrets::hash(token))
    .bind(Micros(now))
    .bind(false)
    .first(on)
    .await
}

/// Ends a session, with the tokens that came of it.
pub(crate) async fn end(
    tx: &mut WriteTransaction,
    now: i64,
    session_id: i64,
) -> Result<(), OperationalError> {
    sql("update session set ended_at = ?2 where session_id = ?1 and ended_at is null")
        .bind(session_id)
        .bind(Micros(now))
        .execute(tx)
        .await?;
    sql("update refresh_token set revoked_at = ?2 where session_id = ?1 and revoked_at is null")
        .bind(session_id)
        .bind(Micros(now))
        .execute(tx)
        .await?;
    Ok(())
}

/// Ends all sessions of an account, with the tokens that came of them.
pub(crate) async fn end_all(
    tx: &mut WriteTransaction,
    now: i64,
    account_id: i64,
) -> Result<(), OperationalError> {
    let open: Vec<(i64,)> = sql("select session_id from session where account_id = ?1")
        .bind(account_id)
        .all(tx)
        .await?;
    for (session_id,) in open {
        end(tx, now, session_id).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_further_failure_costs_twice_as_much_up_to_an_hour() {
        let seconds = |failed| lock(failed).map(|micros| micros / 1_000_000);
        assert_eq!([1, 4, 5, 6, 7].map(seconds), [None, None, Some(30), Some(60), Some(120)]);
        assert_eq!(
            [11, 12, 40, i64::MAX].map(seconds),
            [Some(1920), Some(3600), Some(3600), Some(3600)]
        );
    }
}
