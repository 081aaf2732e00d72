//! Files in folders of this machine. All of it blocks.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, ErrorKind, Write},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use uuid::Uuid;

use super::{Listed, blocking, failed};
use crate::error::LakeError;

/// Makes a folder when it is missing; gives its location.
pub(super) fn make_folder(folder: &Path) -> Result<String, LakeError> {
    let failed = |doing| failed(doing, &folder.display().to_string());
    fs::create_dir_all(folder).map_err(failed("create"))?;
    let folder = folder.canonicalize().map_err(failed("find"))?;
    Ok(format!("file://{}", folder.display()))
}

pub(super) fn read_ranges(file: &File, ranges: &[Range<u64>]) -> io::Result<Vec<Bytes>> {
    ranges
        .iter()
        .map(|range| {
            let length =
                usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, range.start)?;
            Ok(Bytes::from(bytes))
        })
        .collect()
}

pub(super) fn size(path: &Path) -> io::Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

pub(super) fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => tracing::warn!(?path, error = %e, "could not remove a file no longer needed"),
    }
}

/// Creates a file that must not be there yet, with its folder.
pub(super) fn create(path: &Path) -> io::Result<File> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    File::create_new(path)
}

/// Creates a file that goes when the last handle of it does, or the process.
pub(super) fn create_nameless(folder: &Path) -> io::Result<File> {
    fs::create_dir_all(folder)?;
    let path = folder.join(Uuid::new_v4().to_string());
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(path)?;
    Ok(file)
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    create(path)?.write_all(bytes)
}

/// Brings files to the disk, and their names: every folder that may have been made for one.
pub(super) fn sync(paths: &[PathBuf]) -> Result<(), LakeError> {
    let mut folders = BTreeSet::new();
    for path in paths {
        sync_one(path)?;
        folders.extend(path.ancestors().skip(1).take(6));
    }
    folders.into_iter().filter(|f| f.parent().is_some()).try_for_each(sync_one)
}

fn sync_one(path: &Path) -> Result<(), LakeError> {
    File::open(path)
        .and_then(|f| f.sync_all())
        .map_err(failed("flush to disk", &path.display().to_string()))
}

/// The files below a folder, one folder at a time.
pub(super) fn list(
    prefix: String,
    folder: PathBuf,
) -> impl Stream<Item = Result<Listed, LakeError>> + Send + 'static {
    stream::try_unfold(vec![(prefix, folder)], |mut folders| async move {
        let Some((prefix, folder)) = folders.pop() else { return Ok(None) };
        let found = blocking(move || list_one(&prefix, &folder)).await?;
        folders.extend(found.folders);
        Ok::<_, LakeError>(Some((found.files, folders)))
    })
    .map_ok(|files| stream::iter(files).map(Ok))
    .try_flatten()
}

#[derive(Default)]
struct Found {
    files: Vec<Listed>,
    folders: Vec<(String, PathBuf)>,
}

fn list_one(prefix: &str, folder: &Path) -> Result<Found, LakeError> {
    let mut found = Found::default();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(found),
        Err(e) => return Err(failed("list", prefix)(e)),
    };
    for entry in entries {
        let entry = entry.map_err(failed("list", prefix))?;
        // A name that is not text is none that metadata could give.
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let location = format!("{prefix}/{name}");
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Removed meanwhile.
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(failed("inspect", &location)(e)),
        };
        if metadata.is_dir() {
            found.folders.push((location, entry.path()));
        } else if let Some(modified_micros) = modified_micros(&metadata) {
            found.files.push(Listed { location, bytes: metadata.len(), modified_micros });
        }
    }
    Ok(found)
}

fn modified_micros(metadata: &fs::Metadata) -> Option<i64> {
    let since = metadata.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_micros()).ok()
}
