//! Files: pictures and documents that people and the staff store.
//!
//! A file's bytes are an object, once a tenant however often they are stored. Bytes are written first and
//! the row that names them afterwards: what a crash leaves in between is an object without a row, which the
//! sweep takes away. The name of an object is never used again, so whoever stores the bytes of a file that
//! is just being deleted makes an object of their own.

mod api;
mod store;

use aws_lc_rs::digest;
use axum::{Router, http::StatusCode};
use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path};

pub(crate) use store::Files;
pub use store::{BucketAccess, FileStore};

use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_one, record, sql},
    http::{Answer, Command, Failure},
    identifiers::master_keys::random_key,
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
        /// The object that has its bytes.
        #[serde(skip_serializing)]
        #[schema(ignore)]
        pub object: String,
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

/// A name for a new object of these bytes.
fn new_object(tenant_id: i64, sha256: &str) -> Result<String, OperationalError> {
    let own = hex::encode(&random_key()?[..8]);
    Ok(format!("{tenant_id}/{}/{sha256}-{own}", sha256.get(..2).unwrap_or_default()))
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
    command: Command<Bytes>,
) -> Result<Answer, Failure> {
    let most = crate::configuration::integer(services, scope.tenant_id, "files.bytes_max").await?;
    let bytes = command.body.clone();
    check(&new, &bytes, usize::try_from(most).unwrap_or(BYTES_MAX).min(BYTES_MAX))?;
    if let Some(person_id) = new.person_id {
        scope.check_person(person_id)?;
    }
    let sha256 = sha256(&bytes);
    let objects = services.files().objects()?;
    // Not in the transaction: a bucket may take its time.
    let is_there: bool = sql("select exists (select 1 from stored_file
         where tenant_id = ?1 and sha256 = ?2 and deleted_at is null)")
    .bind(scope.tenant_id)
    .bind(&sha256)
    .value(&mut *services.support().read().await?)
    .await?;
    let own = if is_there { None } else { Some(new_object(scope.tenant_id, &sha256)?) };
    if let Some(object) = &own {
        let put = objects.put(&Path::from(object.as_str()), bytes.into()).await;
        put.map_err(OperationalError::files)?;
    }
    let file = StoredFile {
        file_id: 0,
        tenant_id: scope.tenant_id,
        person_id: new.person_id.or(scope.only_person()),
        name: new.name,
        content_type: new.content_type,
        size_bytes: i64::try_from(command.body.len()).unwrap_or(i64::MAX),
        sha256,
        object: own.clone().unwrap_or_default(),
        created_at: Micros(scope.now),
        created_by: scope.actor.to_string(),
        deleted_at: None,
    };
    let answer = command
        .carry_out(services.support(), scope.now, StatusCode::CREATED, move |tx, _, _| {
            Box::pin(keep(tx, file.clone()))
        })
        .await;
    if let Some(object) = own {
        let used: bool = sql("select exists (select 1 from stored_file where object = ?1)")
            .bind(&object)
            .value(&mut *services.support().read().await?)
            .await?;
        if !used {
            // If it stays, the sweep finds it.
            let _ = objects.delete(&Path::from(object)).await;
        }
    }
    answer
}

/// Writes the row of a file whose bytes are in an object of another file of the same, or in its own.
async fn keep(
    tx: &mut WriteTransaction,
    mut file: StoredFile,
) -> Result<StoredFile, OperationalError> {
    // Held to the end, so that nobody deletes the last file of the object meanwhile.
    let shared: Option<(String,)> = sql("select object from stored_file
         where tenant_id = ?1 and sha256 = ?2 and deleted_at is null
         order by file_id limit 1 for update")
    .bind(file.tenant_id)
    .bind(&file.sha256)
    .first(tx)
    .await?;
    if let Some((object,)) = shared {
        file.object = object;
    } else if file.object.is_empty() {
        return Err(OperationalError::conflict(
            "the file of the same bytes was just deleted: send it again",
        ));
    }
    file.file_id = tx.id::<StoredFile>(None).await?;
    insert_one(tx, &file).await?;
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
) -> Result<Bytes, OperationalError> {
    let objects = services.files().objects()?;
    let got = objects.get(&Path::from(file.object.as_str())).await;
    let got = got.map_err(OperationalError::files)?;
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
    let now = services.now();
    let old = |at: chrono::DateTime<chrono::Utc>| at.timestamp_micros() + ORPHAN_MICROS < now;
    let mut taken = 0;
    let mut there = objects.list(None);
    while let Some(object) = there.try_next().await.map_err(OperationalError::files)? {
        let (rows, live): (i64, i64) = sql("select count(*), count(*) - count(deleted_at)
             from stored_file where object = ?1")
        .bind(object.location.as_ref())
        .one(&mut *services.support().read().await?)
        .await?;
        // The bytes of a deleted file go at once; what never had a row may be an upload on its way.
        if live == 0 && (rows > 0 || old(object.last_modified)) {
            objects.delete(&object.location).await.map_err(OperationalError::files)?;
            taken += 1;
        }
    }
    let mut tx = services.support().begin_internal().await?;
    sql("delete from stored_file where deleted_at < ?1")
        .bind(Micros(now - ORPHAN_MICROS))
        .execute(&mut tx)
        .await?;
    tx.commit().await?;
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
