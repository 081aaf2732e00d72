//! What may be done, in words; what a route asks for and a token grants.

use std::fmt;

use crate::{OperationalError, database::words};

words! {
    /// Something that may be done.
    pub enum Permission {
        /// To buy and to be cared for: to see and change what is one's own.
        Own = "own",
        /// To see catalogue, stock, orders and visits of the mall.
        MallRead = "mall.read",
        /// To change them.
        MallWrite = "mall.write",
        /// To see distributors, bindings, commission and settlements.
        DistributionRead = "distribution.read",
        /// To change them, and to settle.
        DistributionWrite = "distribution.write",
        /// To see patients and what is known of them, without their identifiers.
        CareRead = "care.read",
        /// To change it.
        CareWrite = "care.write",
        /// To see names, phone numbers and other identifiers in the clear.
        IdentifiersRead = "identifiers.read",
        /// To see people, accounts, roles and clients.
        IdentityRead = "identity.read",
        /// To change them.
        IdentityWrite = "identity.write",
        /// To see notifications, templates and whether they arrived.
        NotificationsRead = "notifications.read",
        /// To send them, and to change templates and channels.
        NotificationsWrite = "notifications.write",
        /// To see all files of the tenant.
        FilesRead = "files.read",
        /// To store and delete them.
        FilesWrite = "files.write",
        /// To see settings.
        SettingsRead = "settings.read",
        /// To change them.
        SettingsWrite = "settings.write",
        /// To operate the services: messages that wait, keys, sweeps.
        Operate = "operate",
    }
}

impl Permission {
    const fn bit(self) -> u32 {
        1 << (self as u32)
    }
}

/// A set of permissions.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Permissions(u32);

impl Permissions {
    /// All there are but [`Permission::Own`]: whoever has that one alone is a customer.
    #[must_use]
    pub fn of_staff() -> Self {
        Permission::ALL.iter().copied().filter(|p| *p != Permission::Own).collect()
    }

    /// Reads words separated by spaces.
    ///
    /// # Errors
    /// `Invalid` for a word that is none.
    pub fn parse(text: &str) -> Result<Self, OperationalError> {
        text.split_ascii_whitespace()
            .map(|word| {
                of_word(word).ok_or_else(|| {
                    OperationalError::invalid(format!("\"{word}\" is not a permission"))
                })
            })
            .collect()
    }

    /// Those of the words that are permissions; of what is stored, or asked for.
    #[must_use]
    pub fn known(text: &str) -> Self {
        text.split_ascii_whitespace().filter_map(of_word).collect()
    }

    /// Whether it is among them.
    #[must_use]
    pub const fn contains(self, permission: Permission) -> bool {
        self.0 & permission.bit() != 0
    }

    /// Those that are in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

fn of_word(word: &str) -> Option<Permission> {
    Permission::ALL.iter().copied().find(|permission| permission.word() == word)
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        Self(permissions.into_iter().fold(0, |bits, permission| bits | permission.bit()))
    }
}

impl FromIterator<Self> for Permissions {
    fn from_iter<I: IntoIterator<Item = Self>>(sets: I) -> Self {
        Self(sets.into_iter().fold(0, |bits, set| bits | set.0))
    }
}

/// Words separated by spaces, as in the scope of a token.
impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = Permission::ALL.iter().filter(|p| self.contains(**p)).map(|p| p.word());
        f.write_str(&words.collect::<Vec<_>>().join(" "))
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permissions({self})")
    }
}

/// The roles that every tenant has from its start, with what those may do who have them.
pub(crate) const ROLES: &[(&str, &[Permission])] = {
    use Permission::*;
    &[
        (CUSTOMER, &[Own]),
        ("pharmacist", &[MallRead, MallWrite, CareRead, FilesRead, FilesWrite]),
        (
            "care_manager",
            &[
                CareRead,
                CareWrite,
                IdentifiersRead,
                MallRead,
                NotificationsRead,
                NotificationsWrite,
                FilesRead,
                FilesWrite,
            ],
        ),
        ("distribution_manager", &[DistributionRead, DistributionWrite, MallRead]),
        (
            "auditor",
            &[MallRead, DistributionRead, CareRead, IdentityRead, NotificationsRead, SettingsRead],
        ),
    ]
};

/// The role of those who buy and are cared for.
pub(crate) const CUSTOMER: &str = "customer";
/// The role that may do everything of the tenant.
pub(crate) const ADMINISTRATOR: &str = "administrator";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_read_as_it_is_written() {
        let set = Permissions::parse("mall.write  own").unwrap();
        assert_eq!(set.to_string(), "own mall.write");
        assert!(set.contains(Permission::Own) && !set.contains(Permission::MallRead));
        assert!(Permissions::parse("mall.fly").is_err());
        assert_eq!(Permissions::known("openid mall.write"), set.and(Permissions::of_staff()));
        assert!(Permissions::known("").is_empty());
        assert!(Permission::ALL.len() < 32, "there are as many bits");
    }
}
