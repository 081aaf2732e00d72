//! Where the tables of a lake are, and how storage of others is reached: settings.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::config::Secret;

/// Where new tables go, and where the tables of a lake must be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warehouse {
    /// The folder `warehouse` in the lake's own.
    #[default]
    Local,
    /// A folder of this machine; made when missing.
    Folder(PathBuf),
    /// A bucket of an object store that speaks S3, and what all keys in it begin with.
    S3 {
        /// The bucket, which must be there.
        bucket: String,
        /// Without a slash at its beginning and end; may be empty.
        prefix: String,
    },
}

impl fmt::Display for Warehouse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Folder(folder) => write!(f, "{}", folder.display()),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

impl FromStr for Warehouse {
    type Err = String;

    /// From `local`, an absolute path, or an address of scheme `file` or `s3`.
    ///
    /// # Errors
    /// What it must be.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "local" {
            return Ok(Self::Local);
        }
        let folder = text.strip_prefix("file://").unwrap_or(text);
        if folder.starts_with('/') {
            return Ok(Self::Folder(PathBuf::from(folder)));
        }
        if let Some((bucket, key)) = split_s3(text)
            && !bucket.is_empty()
        {
            let prefix = key.trim_matches('/');
            if prefix.split('/').any(|part| part.is_empty() || part == "." || part == "..")
                && !prefix.is_empty()
            {
                return Err("must not have empty or dotted parts in its path".to_owned());
            }
            return Ok(Self::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() });
        }
        Err("must be \"local\", an absolute path, or an address such as s3://bucket/prefix"
            .to_owned())
    }
}

/// The bucket and the key of an address; `s3a` and `s3n` are names Hadoop gives the same thing.
pub(crate) fn split_s3(location: &str) -> Option<(&str, &str)> {
    let rest = ["s3://", "s3a://", "s3n://"].iter().find_map(|s| location.strip_prefix(s))?;
    Some(rest.split_once('/').unwrap_or((rest, "")))
}

/// A location without its scheme, to tell whether two are the same: other programs write `file:/a`
/// for `file:///a`, and `s3a://b/k` for `s3://b/k`.
pub(crate) fn without_scheme(location: &str) -> &str {
    let schemes = ["file://", "file:", "s3://", "s3a://", "s3n://"];
    schemes.iter().find_map(|s| location.strip_prefix(s)).unwrap_or(location)
}

/// How object stores that speak S3 are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Config {
    /// Address of the server, such as `http://127.0.0.1:9000`; none for Amazon's own.
    pub endpoint: Option<String>,
    /// The region requests are signed for.
    pub region: String,
    /// Who asks.
    pub credentials: S3Credentials,
    /// Whether the bucket stands in the path (any server takes that) instead of the host name.
    pub path_style: bool,
    /// Whether an endpoint may be reached without encryption.
    pub allow_http: bool,
}

impl Default for S3Config {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: "us-east-1".to_owned(),
            credentials: S3Credentials::default(),
            path_style: true,
            allow_http: false,
        }
    }
}

/// Who asks an object store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum S3Credentials {
    /// The machine, by the role it was given where it runs.
    #[default]
    Machine,
    /// Nobody in particular: requests are not signed.
    Anonymous,
    /// Whoever has these keys.
    Keys {
        /// Name of the key.
        access_key_id: String,
        /// The key.
        secret_access_key: Secret,
        /// With keys that were lent for a while.
        session_token: Option<Secret>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_where_tables_go() {
        let s3 = |bucket: &str, prefix: &str| Warehouse::S3 {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        };
        for (text, expected, shown) in [
            ("local", Warehouse::Local, "local"),
            ("/srv/lake", Warehouse::Folder("/srv/lake".into()), "/srv/lake"),
            ("file:///srv/lake", Warehouse::Folder("/srv/lake".into()), "/srv/lake"),
            ("s3://b", s3("b", ""), "s3://b"),
            ("s3a://b/a/b/", s3("b", "a/b"), "s3://b/a/b"),
        ] {
            assert_eq!(text.parse(), Ok(expected.clone()), "{text}");
            assert_eq!(expected.to_string(), shown);
            assert_eq!(shown.parse(), Ok(expected));
        }
        for wrong in ["", "lake", "s3://", "s3:///x", "s3://b/../c", "s3://b/a//b", "gs://b"] {
            assert!(wrong.parse::<Warehouse>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_are_never_shown() {
        let credentials = S3Credentials::Keys {
            access_key_id: "medlake".to_owned(),
            secret_access_key: Secret::new("geheim"),
            session_token: Some(Secret::new("geheim")),
        };
        let shown = format!("{:?}", S3Config { credentials, ..S3Config::default() });
        assert!(shown.contains("medlake") && !shown.contains("geheim"), "{shown}");
    }
}
