use chrono::{Datelike, NaiveDate};

use crate::OperationalError;

/// Whose rows a call touches, who makes it and the time it happens at. A service passes the present; a
/// replay passes the recorded time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// The tenant that owns the rows.
    pub tenant_id: i64,
    /// Microseconds since 1970 (UTC).
    pub now: i64,
    /// Who acts.
    pub actor: Actor,
}

/// Who acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Actor {
    /// The platform itself: a delivery between services, a schedule, a replay, and whoever asks where
    /// access is open.
    System,
    /// A program, by its own credentials.
    Client {
        /// Its id.
        client_id: i64,
    },
    /// Somebody who works for the tenant.
    Staff {
        /// Who.
        person_id: i64,
    },
    /// Somebody who buys or is cared for: sees and changes only what is theirs.
    Customer {
        /// Who.
        person_id: i64,
    },
}

impl Actor {
    /// The person, if one acts.
    #[must_use]
    pub const fn person_id(self) -> Option<i64> {
        match self {
            Self::System | Self::Client { .. } => None,
            Self::Staff { person_id } | Self::Customer { person_id } => Some(person_id),
        }
    }
}

/// `system`, `client:3`, `staff:7`, `customer:7`: what stands in a column that says who did it.
impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::Client { client_id } => write!(f, "client:{client_id}"),
            Self::Staff { person_id } => write!(f, "staff:{person_id}"),
            Self::Customer { person_id } => write!(f, "customer:{person_id}"),
        }
    }
}

impl Scope {
    /// The tenant that requests without a tenant belong to.
    pub const DEFAULT_TENANT: i64 = 1;

    /// The default tenant, at `now` (microseconds since 1970, UTC); the platform itself acts.
    #[must_use]
    pub const fn at(now: i64) -> Self {
        Self::of(Self::DEFAULT_TENANT, now)
    }

    /// A tenant, at `now` (microseconds since 1970, UTC); the platform itself acts.
    #[must_use]
    pub const fn of(tenant_id: i64, now: i64) -> Self {
        Self { tenant_id, now, actor: Actor::System }
    }

    /// The only person whose rows may be seen, for a customer; what a list is filtered by.
    #[must_use]
    pub const fn only_person(&self) -> Option<i64> {
        match self.actor {
            Actor::Customer { person_id } => Some(person_id),
            _ => None,
        }
    }

    /// Refuses a customer who acts for another person: for a person named in a request.
    ///
    /// # Errors
    /// `Denied`.
    pub fn check_person(&self, person_id: i64) -> Result<(), OperationalError> {
        match self.only_person() {
            Some(own) if own != person_id => Err(OperationalError::denied(format!(
                "person {own} may not act for person {person_id}"
            ))),
            _ => Ok(()),
        }
    }

    /// Hides from a customer what is another person's: for a row that was found. `what` and `id` are
    /// those of [`OperationalError::NotFound`], so that nobody learns which ids there are.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn check_owner(
        &self,
        person_id: i64,
        what: &'static str,
        id: i64,
    ) -> Result<(), OperationalError> {
        match self.only_person() {
            Some(own) if own != person_id => Err(OperationalError::not_found(what, id)),
            _ => Ok(()),
        }
    }
}

/// The last microsecond of the year 9999: later times and days are written in forms that readers of
/// the change table do not know.
const LAST_MICROS: i64 = 253_402_300_799_999_999;

/// Refuses a time from a client that is before 1970 or after the year 9999.
pub(crate) fn check_time(field: &str, at_micros: Option<i64>) -> Result<(), OperationalError> {
    match at_micros {
        Some(at) if !(0..=LAST_MICROS).contains(&at) => Err(OperationalError::invalid(format!(
            "{field} must be microseconds between the years 1970 and 9999"
        ))),
        _ => Ok(()),
    }
}

/// Refuses a day from a client that is not in the years 1 to 9999.
pub(crate) fn check_day(field: &str, day: Option<NaiveDate>) -> Result<(), OperationalError> {
    match day {
        Some(day) if !(1..=9999).contains(&day.year()) => {
            Err(OperationalError::invalid(format!("{field} must be in the years 1 to 9999")))
        }
        _ => Ok(()),
    }
}
