//! Files: pictures and documents that people and the staff store.
//!
//! A file's bytes are an object named by their SHA-256, once a tenant however often they are stored. Bytes
//! are written first and the row that names them afterwards: what a crash leaves in between is an object
//! without a row, which the sweep takes away.

mod api;
mod store;

use aws_lc_rs::digest;
use axum::Router;
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path};

pub use store::FileStore;
pub(crate) use store::Files;

use crate::{
    OperationalError, Scope, Services,
    database::{Connection, Micros, insert_one, record, sql},
    timers::Timer,
};

/// What is stored as it is called: text, pictures and documents that no reader takes for a program.
const TYPES: &[&str] = &[
    "image/png",
    "image/jpeg",
    "image/webp",
    "application/pdf",
    "text/plain",
    "text/csv",
    "application/json",
];
/// No file is longer than this, whatever the settings say.
pub(crate) const BYTES_MAX: usize = 32 << 20;
/// How old an object without a row must be to be taken away: longer than any upload takes.
const ORPHAN_MICROS: i64 = 24 * 3600 * 1_000_000;

record! {
    /// A file.
    pub struct StoredFile in "stored_file" {
        /// Its id.
        pub file_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// Whose it is, if a person's.
        pub person_id: Option<i64>,
        /// What it is called.
        pub name: String,
        /// What it is, such as `image/png`.
        pub content_type: String,
        /// How long it is.
        pub size_bytes: i64,
        /// The SHA-256 of its bytes, in hexadecimal digits.
        pub sha256: String,
        /// When it was stored, in microseconds since 1970 (UTC).
        pub created_at: Micros,
        /// Who stored it.
        pub created_by: String,
        /// When it was deleted.
        pub deleted_at: Option<Micros>,
    }
}

/// Takes away what nobody has any more, once an hour at most.
pub(crate) const SWEEP: Timer = Timer {
    name: "files",
    run: |services| {
        Box::pin(async move {
            if services.files().is_time_to_sweep(services.now()) {
                sweep(services).await?;
            }
            Ok(())
        })
    },
};

/// A file to be stored.
#[derive(Debug)]
pub(crate) struct NewFile {
    pub(crate) person_id: Option<i64>,
    pub(crate) name: String,
    pub(crate) content_type: String,
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

/// Where the bytes of this hash are.
fn place(tenant_id: i64, sha256: &str) -> Path {
    Path::from(format!("{tenant_id}/{}/{sha256}", sha256.get(..2).unwrap_or_default()))
}

/// Refuses what is not stored: another type, or bytes that are not of it.
fn check(new: &NewFile, bytes: &[u8], most: usize) -> Result<(), OperationalError> {
    let wrong = |problem: String| Err(OperationalError::invalid(problem));
    if bytes.is_empty() {
        return wrong("a file has at least one byte".to_owned());
    }
    if bytes.len() > most {
        return wrong(format!("a file has at most {most} bytes"));
    }
    if !TYPES.contains(&new.content_type.as_str()) {
        return wrong(format!("the content type must be one of {}", TYPES.join(", ")));
    }
    let begins: &[u8] = match new.content_type.as_str() {
        "image/png" => b"\x89PNG\r\n\x1a\n",
        "image/jpeg" => b"\xff\xd8\xff",
        "image/webp" => b"RIFF",
        "application/pdf" => b"%PDF-",
        _ => b"",
    };
    let is_text = begins.is_empty();
    if !bytes.starts_with(begins) || (is_text && std::str::from_utf8(bytes).is_err()) {
        return wrong(format!("the bytes are not those of {}", new.content_type));
    }
    let length = new.name.chars().count();
    if !(1..=200).contains(&length) || new.name.chars().any(|c| c.is_control() || "/\\".contains(c))
    {
        return wrong("name must have 1 to 200 characters, none of them a slash".to_owned());
    }
    Ok(())
}

/// Stores a file.
pub(crate) async fn store(
    services: &Services,
    scope: Scope,
    new: NewFile,
    bytes: bytes::Bytes,
) -> Result<StoredFile, OperationalError> {
    let most = crate::configuration::integer(services, scope.tenant_id, "files.bytes_max").await?;
    check(&new, &bytes, usize::try_from(most).unwrap_or(BYTES_MAX).min(BYTES_MAX))?;
    if let Some(person_id) = new.person_id {
        scope.check_person(person_id)?;
    }
    let person_id = new.person_id.or(scope.only_person());
    let sha256 = sha256(&bytes);
    let objects = services.files().objects()?;
    let place = place(scope.tenant_id, &sha256);
    let put = |bytes: bytes::Bytes| objects.put(&place, bytes.into());
    put(bytes.clone()).await.map_err(OperationalError::files)?;
    let mut tx = services.support().begin(scope.now).await?;
    let file = StoredFile {
        file_id: tx.id::<StoredFile>(None).await?,
        tenant_id: scope.tenant_id,
        person_id,
        name: new.name,
        content_type: new.content_type,
        size_bytes: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
        sha256,
        created_at: Micros(scope.now),
        created_by: scope.actor.to_string(),
        deleted_at: None,
    };
    insert_one(&mut tx, &file).await?;
    tx.commit().await?;
    // A sweep that looked before the row was there may just have taken the same bytes of long ago.
    if objects.head(&place).await.is_err() {
        put(bytes).await.map_err(OperationalError::files)?;
    }
    Ok(file)
}

/// The row of a file that is not deleted. Customers find what is theirs.
pub(crate) async fn find(
    on: &mut Connection,
    scope: Scope,
    file_id: i64,
) -> Result<StoredFile, OperationalError> {
    let file: StoredFile = sql("select * from stored_file
         where file_id = ?1 and tenant_id = ?2 and deleted_at is null")
    .bind(file_id)
    .bind(scope.tenant_id)
    .first(on)
    .await?
    .ok_or(OperationalError::not_found("file", file_id))?;
    scope.check_owner(file.person_id.unwrap_or_default(), "file", file_id)?;
    Ok(file)
}

/// The bytes of a file, which are those that were stored.
pub(crate) async fn bytes_of(
    services: &Services,
    file: &StoredFile,
) -> Result<bytes::Bytes, OperationalError> {
    let objects = services.files().objects()?;
    let got =
        objects.get(&place(file.tenant_id, &file.sha256)).await.map_err(OperationalError::files)?;
    let bytes = got.bytes().await.map_err(OperationalError::files)?;
    if sha256(&bytes) != file.sha256 {
        return Err(OperationalError::Tampered { what: "file" });
    }
    Ok(bytes)
}

/// Takes away objects that no file has. Gives how many.
pub(crate) async fn sweep(services: &Services) -> Result<u64, OperationalError> {
    use futures::TryStreamExt as _;

    let objects = services.files().objects()?;
    let old =
        |at: chrono::DateTime<chrono::Utc>| at.timestamp_micros() + ORPHAN_MICROS < services.now();
    let mut taken = 0;
    let mut there = objects.list(None);
    while let Some(object) = there.try_next().await.map_err(OperationalError::files)? {
        let parts: Vec<String> =
            object.location.parts().map(|part| part.as_ref().to_owned()).collect();
        let [tenant_id, _, sha256] = parts.as_slice() else { continue };
        let Ok(tenant_id) = tenant_id.parse::<i64>() else { continue };
        // The bytes of a deleted file go at once; what never had a row may be an upload on its way.
        let mut tx = services.support().begin_internal().await?;
        let (rows, live): (i64, i64) = sql("select count(*), count(*) - count(deleted_at)
             from stored_file where tenant_id = ?1 and sha256 = ?2")
        .bind(tenant_id)
        .bind(sha256)
        .one(&mut tx)
        .await?;
        if live == 0 && (rows > 0 || old(object.last_modified)) {
            objects.delete(&object.location).await.map_err(OperationalError::files)?;
            sql("delete from stored_file where tenant_id = ?1 and sha256 = ?2
                 and deleted_at is not null")
            .bind(tenant_id)
            .bind(sha256)
            .execute(&mut tx)
            .await?;
            taken += 1;
        }
        tx.commit().await?;
    }
    Ok(taken)
}

pub(crate) fn router() -> Router<Services> {
    api::router()
}

pub(crate) fn openapi() -> utoipa::openapi::OpenApi {
    api::openapi()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_of_the_type_they_say() {
        let new = |content_type: &str, name: &str| NewFile {
            person_id: None,
            name: name.to_owned(),
            content_type: content_type.to_owned(),
        };
        for (content_type, name, bytes, good) in [
            ("image/png", "x.png", b"\x89PNG\r\n\x1a\nrest".as_slice(), true),
            ("image/png", "x.png", b"<svg onload=alert(1)>", false),
            ("text/html", "x.html", b"<p>", false),
            ("text/plain", "报告.txt", "正常".as_bytes(), true),
            ("text/plain", "x.txt", b"\xff\xfe", false),
            ("text/plain", "../x", b"x", false),
            ("text/plain", "", b"x", false),
            ("text/plain", "x\r\n", b"x", false),
            ("text/plain", "x", b"", false),
            ("text/plain", "x", b"12345678901", false),
        ] {
            let checked = check(&new(content_type, name), bytes, if good { 100 } else { 10 });
            assert_eq!(checked.is_ok(), good, "{content_type} {name}");
        }
    }
}
