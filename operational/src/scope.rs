/// Whose rows a call touches and the time it happens at. A service passes the present; a replay
/// passes the recorded time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// The tenant that owns the rows.
    pub tenant_id: i64,
    /// Microseconds since 1970 (UTC).
    pub now: i64,
}

impl Scope {
    /// The tenant that requests without a tenant belong to.
    pub const DEFAULT_TENANT: i64 = 1;

    /// The default tenant, at `now` (microseconds since 1970, UTC).
    #[must_use]
    pub const fn at(now: i64) -> Self {
        Self { tenant_id: Self::DEFAULT_TENANT, now }
    }
}
