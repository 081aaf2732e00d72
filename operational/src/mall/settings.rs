use crate::{OperationalError, identity::secrets, names::is_name};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// What the mall of this process knows beside the settings of its tenants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Who tells of payments.
    pub payment_channels: PaymentChannels,
}

/// The shortest secret of a payment channel.
const SECRET_LENGTH_MIN: usize = 16;

/// Payment channels with the secrets that they sign their notifications with, which are not shown.
/// Written as `wechat_pay=secret,alipay=secret`, without commas in a secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PaymentChannels(BTreeMap<String, String>);

impl PaymentChannels {
    /// The secret of a channel.
    pub(super) fn secret(&self, channel: &str) -> Option<&[u8]> {
        self.0.get(channel).map(String::as_bytes)
    }

    /// Adds a channel with a secret that nobody can guess, for as long as this process runs; gives the
    /// secret, or none if there is a channel of this name.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn add(&mut self, channel: &str) -> Result<Option<String>, OperationalError> {
        if self.0.contains_key(channel) {
            return Ok(None);
        }
        let secret = secrets::token()?;
        self.0.insert(channel.to_owned(), secret.clone());
        Ok(Some(secret))
    }
}

impl fmt::Debug for PaymentChannels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl FromStr for PaymentChannels {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(',')
            .filter(|channel| !channel.trim().is_empty())
            .map(|channel| {
                let (name, secret) =
                    channel.trim().split_once('=').ok_or("must be of the form name=secret,..")?;
                if !is_name(name, 32) {
                    return Err("names channels by up to 32 lower-case letters, digits and _");
                }
                match secret.len() < SECRET_LENGTH_MIN {
                    true => Err("needs secrets of at least 16 characters"),
                    false => Ok((name.to_owned(), secret.to_owned())),
                }
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_read_and_not_shown() {
        let channels: PaymentChannels =
            "wechat_pay=0123456789abcdef, alipay=fedcba9876543210=".parse().unwrap();
        assert_eq!(channels.secret("wechat_pay"), Some(&b"0123456789abcdef"[..]));
        assert_eq!(channels.secret("alipay"), Some(&b"fedcba9876543210="[..]));
        assert_eq!(channels.secret("other"), None);
        assert_eq!(format!("{channels:?}"), r#"{"alipay", "wechat_pay"}"#);
        assert_eq!("".parse(), Ok(PaymentChannels::default()));
        for wrong in
            ["wechat_pay", "wechat_pay=short", "WeChat=0123456789abcdef", "=0123456789abcdef"]
        {
            assert!(wrong.parse::<PaymentChannels>().is_err(), "{wrong}");
        }
    }
}
