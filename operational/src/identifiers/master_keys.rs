//! Master keys: what the data keys of persons are wrapped with, and what lookup tokens are made with.
//!
//! They are in a file that only its owner may read, one line a key: its id and 32 bytes in base64. The
//! last line is the key in use; the ones before it still open what they wrapped until all of that is
//! wrapped anew. A line is only ever added, or taken out when nothing needs it any more.
//!
//! ```text
//! medlake-master-keys 1
//! k1 <base64 of 32 bytes>
//! k2 <base64 of 32 bytes>
//! ```
//!
//! A master key itself encrypts nothing. Two keys are derived from each by HMAC-SHA256 with a label: one
//! for AES-256-GCM, which wraps, one for HMAC-SHA256, which makes tokens. So is its fingerprint, which is
//! stored beside what it wraps and tells another key of the same id.
//!
//! Several processes may go by one file. Whoever uses a key looks first whether the file is another than
//! it was when it was read, and whoever changes it locks its folder.

use std::{
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hmac, rand,
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use crate::OperationalError;

/// Bytes of a key of AES-256 and of HMAC-SHA256.
pub(crate) const KEY_BYTES: usize = 32;
const FIRST_LINE: &str = "medlake-master-keys 1";
const WRAPPING: &[u8] = b"medlake wrapping of person keys v1";
const TOKENS: &[u8] = b"medlake lookup tokens v1";
const FINGERPRINT: &[u8] = b"medlake fingerprint v1";

/// A key as it is in memory. Never shown.
#[derive(Clone)]
pub(crate) struct MasterKey {
    id: String,
    bytes: [u8; KEY_BYTES],
}

impl MasterKey {
    /// A new key of this id, which is in no file yet.
    pub(crate) fn random(id: String) -> Result<Self, OperationalError> {
        Ok(Self { id, bytes: random_key()? })
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// What tells it from another key, and nothing else of it.
    pub(crate) fn fingerprint(&self) -> String {
        hex::encode(self.derived(FINGERPRINT))
    }

    fn derived(&self, label: &[u8]) -> Vec<u8> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.bytes);
        hmac::sign(&key, label).as_ref().to_vec()
    }
}

/// The keys of one file. Cheap to clone; all clones are the same keys.
#[derive(Clone)]
pub struct MasterKeys {
    file: PathBuf,
    read: Arc<RwLock<File>>,
}

/// A file as it was read.
struct File {
    /// Which file it is, and when it was written: each change makes another one.
    version: (u64, i64, i64),
    keys: Vec<MasterKey>,
}

impl fmt::Debug for MasterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKeys").field("file", &self.file).finish_non_exhaustive()
    }
}

impl MasterKeys {
    /// Reads the keys of a file; makes a file with one key when there is none.
    ///
    /// # Errors
    /// `Key` when it cannot be read or made, when others may read it, or when it is no such file.
    pub fn open(file: &Path) -> Result<Self, OperationalError> {
        if !file.exists() {
            let key = MasterKey::random("k1".to_owned())?;
            let _alone = lock(file)?;
            // Another process may have been first.
            if !file.exists() {
                write(file, &[key])?;
            }
        }
        Ok(Self { file: file.to_path_buf(), read: Arc::new(RwLock::new(read(file)?)) })
    }

    /// Reads the file again, for what another process did to it.
    pub(crate) fn refresh(&self) -> Result<(), OperationalError> {
        *self.read.write().unwrap_or_else(PoisonError::into_inner) = read(&self.file)?;
        Ok(())
    }

    /// The failure of these keys to be what is needed.
    pub(crate) fn unfit(&self, problem: &'static str) -> OperationalError {
        failed(&self.file, problem, None)
    }

    /// The id of the key in use.
    #[must_use]
    pub fn current(&self) -> String {
        self.in_use().id
    }

    /// The ids of all keys, the one in use last.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.all().into_iter().map(|key| key.id).collect()
    }

    /// Adds a key, which is the one in use from now on; one that is there already stays where it is. What
    /// older keys wrapped opens as before.
    ///
    /// # Errors
    /// `Key` when the file cannot be written.
    pub(crate) fn add(&self, key: &MasterKey) -> Result<(), OperationalError> {
        self.change(|keys| {
            if !keys.iter().any(|known| known.id == key.id) {
                keys.push(key.clone());
            }
            Ok(())
        })
    }

    /// Takes a key that is not in use out of the file: what it still wraps is lost.
    ///
    /// # Errors
    /// `Conflict` for the key in use, `Key` when the file cannot be written.
    pub(crate) fn remove(&self, id: &str) -> Result<(), OperationalError> {
        self.change(|keys| {
            if keys.last().is_some_and(|key| key.id == id) {
                return Err(OperationalError::conflict(format!("master key {id} is in use")));
            }
            keys.retain(|key| key.id != id);
            Ok(())
        })
    }

    fn change(
        &self,
        act: impl FnOnce(&mut Vec<MasterKey>) -> Result<(), OperationalError>,
    ) -> Result<(), OperationalError> {
        let _alone = lock(&self.file)?;
        let mut keys = read(&self.file)?.keys;
        act(&mut keys)?;
        write(&self.file, &keys)?;
        self.refresh()
    }

    /// Wraps a data key with the key in use; gives that key's id.
    pub(crate) fn wrap(
        &self,
        of: &[u8],
        data_key: &[u8; KEY_BYTES],
    ) -> Result<(String, Vec<u8>), OperationalError> {
        let key = self.in_use();
        Ok((key.id.clone(), seal(&key.derived(WRAPPING), &bound(of, &key.id), data_key)?))
    }

    /// The data key that a master key wrapped.
    pub(crate) fn unwrap(
        &self,
        id: &str,
        of: &[u8],
        wrapped: &[u8],
    ) -> Result<[u8; KEY_BYTES], OperationalError> {
        let key = self.known(id).ok_or_else(|| self.unfit(LACKS))?;
        open(&key.derived(WRAPPING), &bound(of, id), wrapped)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(OperationalError::Tampered { what: "data key" })
    }

    /// What some master key wrapped, wrapped with the key in use.
    pub(crate) fn rewrap(
        &self,
        id: &str,
        of: &[u8],
        wrapped: &[u8],
    ) -> Result<(String, Vec<u8>), OperationalError> {
        self.wrap(of, &self.unwrap(id, of, wrapped)?)
    }

    /// What stands for a value under each key, the one in use last: the same value gives the same token,
    /// which tells nothing to those without the key.
    pub(crate) fn tokens(&self, of: &[u8]) -> Vec<(String, String)> {
        let token = |key: MasterKey| {
            let secret = hmac::Key::new(hmac::HMAC_SHA256, &key.derived(TOKENS));
            (key.id, hex::encode(hmac::sign(&secret, of)))
        };
        self.all().into_iter().map(token).collect()
    }

    /// All keys, the one in use last. A file that cannot be read is told of by `refresh`; meanwhile what
    /// was read before serves.
    pub(crate) fn all(&self) -> Vec<MasterKey> {
        let known = |file: &File| (file.version, file.keys.clone());
        let (version, keys) = known(&self.read.read().unwrap_or_else(PoisonError::into_inner));
        if self::version(&self.file).is_ok_and(|now| now != version) && self.refresh().is_ok() {
            return known(&self.read.read().unwrap_or_else(PoisonError::into_inner)).1;
        }
        keys
    }

    fn in_use(&self) -> MasterKey {
        self.all().pop().expect("a file of keys has one at least")
    }

    fn known(&self, id: &str) -> Option<MasterKey> {
        self.all().into_iter().find(|key| key.id == id)
    }
}

/// What is wrong with a file of keys that does not open what is there.
pub(crate) const LACKS: &str = "lacks a master key that rows of the databases are kept under; put that file \
     back, or its line";

/// The bytes that a wrapped key is bound to: whose it is, and under which key.
fn bound(of: &[u8], id: &str) -> Vec<u8> {
    [of, b"|", id.as_bytes()].concat()
}

pub(crate) fn random_key() -> Result<[u8; KEY_BYTES], OperationalError> {
    let mut bytes = [0; KEY_BYTES];
    rand::fill(&mut bytes).map_err(|_| OperationalError::Encryption)?;
    Ok(bytes)
}

/// AES-256-GCM with a nonce drawn at random, which comes first.
pub(crate) fn seal(key: &[u8], bound_to: &[u8], text: &[u8]) -> Result<Vec<u8>, OperationalError> {
    let key =
        RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| OperationalError::Encryption)?;
    let mut sealed = text.to_vec();
    let nonce = key
        .seal_in_place_append_tag(Aad::from(bound_to), &mut sealed)
        .map_err(|_| OperationalError::Encryption)?;
    Ok([&nonce.as_ref()[..], &sealed].concat())
}

/// What was sealed; nothing when a bit of it, of the key or of what it is bound to is another.
pub(crate) fn open(key: &[u8], bound_to: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let key = RandomizedNonceKey::new(&AES_256_GCM, key).ok()?;
    let mut text = sealed.to_vec();
    Some(key.open_in_place(nonce, Aad::from(bound_to), &mut text).ok()?.to_vec())
}

fn failed(file: &Path, problem: &'static str, source: Option<io::Error>) -> OperationalError {
    OperationalError::Key { file: file.to_path_buf(), problem, source }
}

fn version(file: &Path) -> io::Result<(u64, i64, i64)> {
    let of = fs::metadata(file)?;
    Ok((of.ino(), of.mtime(), of.mtime_nsec()))
}

fn folder(file: &Path) -> &Path {
    file.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
}

/// Whoever has it may change the file; others wait.
fn lock(file: &Path) -> Result<fs::File, OperationalError> {
    let cannot = |source| failed(file, "cannot be written", Some(source));
    // The folder, because the file is replaced when it changes.
    let folder = folder(file);
    fs::create_dir_all(folder).map_err(cannot)?;
    let folder = fs::File::open(folder).map_err(cannot)?;
    folder.lock().map_err(cannot)?;
    Ok(folder)
}

fn read(file: &Path) -> Result<File, OperationalError> {
    let cannot = |source| failed(file, "cannot be read", Some(source));
    let mode = fs::metadata(file).map_err(cannot)?.permissions().mode();
    if mode & 0o077 != 0 {
        let problem = "may be read by others; take their rights away (chmod 600)";
        return Err(failed(file, problem, None));
    }
    // Before the text: when the file changes in between, it is read once more than it had to be.
    let version = version(file).map_err(cannot)?;
    let text = fs::read_to_string(file).map_err(cannot)?;
    let keys = parse(&text).ok_or_else(|| {
        failed(file, "is not a file of master keys, or not a whole one; put a copy back", None)
    })?;
    Ok(File { version, keys })
}

fn parse(text: &str) -> Option<Vec<MasterKey>> {
    // The last line is whole, too: a file that was cut off must not lose the key in use.
    let mut lines = text.strip_suffix('\n')?.lines();
    if lines.next() != Some(FIRST_LINE) {
        return None;
    }
    let mut keys: Vec<MasterKey> = Vec::new();
    for line in lines {
        let (id, key) = line.split_once(' ')?;
        let bytes = BASE64.decode(key).ok()?.try_into().ok()?;
        let new = !keys.iter().any(|known| known.id == id);
        if id.is_empty() || id.len() > 32 || !new {
            return None;
        }
        keys.push(MasterKey { id: id.to_owned(), bytes });
    }
    (!keys.is_empty()).then_some(keys)
}

/// Whole or not at all: the file is written beside and then takes the place of the old one. Only with the
/// lock.
fn write(file: &Path, keys: &[MasterKey]) -> Result<(), OperationalError> {
    let cannot = |source| failed(file, "cannot be written", Some(source));
    let mut text = format!("{FIRST_LINE}\n");
    for key in keys {
        text.push_str(&format!("{} {}\n", key.id, BASE64.encode(key.bytes)));
    }
    let beside = file.with_extension("new");
    let _ = fs::remove_file(&beside);
    let mut options = fs::OpenOptions::new();
    let mut new = options.write(true).create_new(true).mode(0o600).open(&beside).map_err(cannot)?;
    new.write_all(text.as_bytes()).and_then(|()| new.sync_all()).map_err(cannot)?;
    fs::rename(&beside, file).map_err(cannot)?;
    // The name, too, before anything is wrapped by a key that is only there.
    fs::File::open(folder(file)).and_then(|folder| folder.sync_all()).map_err(cannot)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn what_is_sealed_opens_and_what_was_tampered_with_does_not(
            key in any::<[u8; KEY_BYTES]>(),
            bound_to in ".{0,40}",
            text in any::<Vec<u8>>(),
            place in any::<prop::sample::Index>(),
            bit in 0_u32..8,
        ) {
            let sealed = seal(&key, bound_to.as_bytes(), &text).unwrap();
            prop_assert_eq!(open(&key, bound_to.as_bytes(), &sealed), Some(text.clone()));
            prop_assert_ne!(&seal(&key, bound_to.as_bytes(), &text).unwrap(), &sealed);

            let mut tampered = sealed.clone();
            tampered[place.index(sealed.len())] ^= 1_u8 << bit;
            prop_assert_eq!(open(&key, bound_to.as_bytes(), &tampered), None);
            prop_assert_eq!(open(&key, format!("{bound_to}x").as_bytes(), &sealed), None);
            let mut other = key;
            other[place.index(KEY_BYTES)] ^= 1_u8 << bit;
            prop_assert_eq!(open(&other, bound_to.as_bytes(), &sealed), None);
            prop_assert_eq!(open(&key, bound_to.as_bytes(), &sealed[..place.index(sealed.len())]), None);
        }
    }

    #[test]
    fn a_file_of_keys_is_made_for_its_owner_alone_and_grows_by_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deep/master.keys");
        let keys = MasterKeys::open(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let beside = MasterKeys::open(&file).unwrap();
        let data_key = random_key().unwrap();
        let (id, wrapped) = keys.wrap(b"1/7", &data_key).unwrap();
        assert_eq!(beside.unwrap(&id, b"1/7", &wrapped).unwrap(), data_key);
        assert!(matches!(
            beside.unwrap(&id, b"1/8", &wrapped),
            Err(OperationalError::Tampered { .. })
        ));

        let tokens = keys.tokens(b"13800138000");
        let second = MasterKey::random("k2".to_owned()).unwrap();
        keys.add(&second).unwrap();
        keys.add(&second).unwrap();
        assert_eq!(
            (keys.ids(), keys.current()),
            (vec!["k1".to_owned(), "k2".to_owned()], "k2".to_owned())
        );
        assert_eq!(keys.tokens(b"13800138000")[..1], tokens);
        let (id, wrapped) = keys.wrap(b"1/7", &data_key).unwrap();
        assert_eq!(id, "k2");
        // The process beside finds the key that was added, and goes by it.
        assert_eq!(beside.current(), "k2");
        assert_eq!(beside.unwrap("k2", b"1/7", &wrapped).unwrap(), data_key);
        assert!(keys.remove("k2").is_err());
        keys.remove("k1").unwrap();
        assert!(matches!(keys.unwrap("k1", b"1/7", &wrapped), Err(OperationalError::Key { .. })));
        assert!(!format!("{keys:?}").contains(&BASE64.encode(keys.in_use().bytes)));

        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(MasterKeys::open(&file).unwrap_err().to_string().contains("chmod 600"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let whole = fs::read_to_string(&file).unwrap();
        let twice = format!("{whole}{}\n", whole.lines().last().unwrap());
        let cut = &whole[..whole.len() - 1];
        for text in ["", "k1 AAAA\n", "medlake-master-keys 1\n", "medlake-master-keys 1\nk1 AAAA\n"]
            .into_iter()
            .chain([&*twice, cut])
        {
            fs::write(&file, text).unwrap();
            let refused = MasterKeys::open(&file).unwrap_err().to_string();
            assert!(refused.contains("not a file of master keys"), "{text}: {refused}");
            // What was read before serves until the file is whole again, and nothing writes over it.
            assert_eq!(keys.ids(), ["k2"]);
            assert!(keys.add(&MasterKey::random("k3".to_owned()).unwrap()).is_err());
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        fs::write(&file, &whole).unwrap();
        keys.add(&MasterKey::random("k3".to_owned()).unwrap()).unwrap();
        assert_eq!(beside.current(), "k3");
    }

    #[test]
    fn keys_that_many_add_at_once_are_all_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("master.keys");
        std::thread::scope(|scope| {
            for number in 2..10 {
                let file = &file;
                scope.spawn(move || {
                    let keys = MasterKeys::open(file).unwrap();
                    keys.add(&MasterKey::random(format!("k{number}")).unwrap()).unwrap();
                });
            }
        });
        assert_eq!(MasterKeys::open(&file).unwrap().ids().len(), 9);
    }
}
