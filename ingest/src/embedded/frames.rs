use sqlx::SqliteConnection;

use super::decode::RawChange;

/// Rows of the change table in one answer.
///
/// A row that crosses from SQLite's thread on its own costs several times what decoding it does, so
/// SQLite joins a thousand of them into one value.
pub(crate) const CHUNK_ROWS: i64 = 1_000;

/// The changes after one, as [`Frames`] takes them; none when there are none. So many rows at most, and
/// fewer from then on when those are more than SQLite holds in one value (a gigabyte).
pub(crate) async fn chunk(
    connection: &mut SqliteConnection,
    after: i64,
    rows: &mut i64,
) -> Result<Option<Vec<u8>>, sqlx::Error> {
    loop {
        let asked = sqlx::query_scalar(SQL).bind(after).bind(*rows);
        match asked.fetch_one(&mut *connection).await {
            Err(error) if too_big(&error) && *rows > 1 => *rows = (*rows / 8).max(1),
            chunk => return chunk,
        }
    }
}

fn too_big(error: &sqlx::Error) -> bool {
    const SQLITE_TOOBIG: &str = "18";
    error.as_database_error().and_then(|e| e.code()).is_some_and(|code| code == SQLITE_TOOBIG)
}

/// The next changes after `?1`, at most `?2`, as one value, null when there is none. A change is six
/// numbers, each followed by a space (change, transaction, and the lengths in bytes of the four
/// texts, -1 for null), then the texts: operation, table, image before, image after.
const SQL: &str = "
    with changes as materialized (
        select change_id, tx_id, op, table_name, before, after
        from cdc_change
        where change_id > ?1
        order by change_id
        limit ?2
    )
    select cast(group_concat(
        change_id || ' ' || tx_id || ' ' || octet_length(op) || ' ' || octet_length(table_name)
            || ' ' || coalesce(octet_length(before), -1)
            || ' ' || coalesce(octet_length(after), -1)
            || ' ' || op || table_name || coalesce(before, '') || coalesce(after, ''),
        '' order by change_id) as blob)
    from changes";

/// The changes in one answer to [`SQL`].
pub(crate) struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Frames<'a> {
    pub(crate) fn new(chunk: &'a [u8]) -> Self {
        Self { rest: chunk }
    }

    fn frame(&mut self) -> Option<RawChange<'a>> {
        let change_id = self.number()?;
        let tx_id = self.number()?;
        let lengths = [self.number()?, self.number()?, self.number()?, self.number()?];
        let [op, table, before, after] = lengths.map(|length| usize::try_from(length).ok());
        Some(RawChange {
            change_id,
            tx_id,
            op: str::from_utf8(self.bytes(op?)?).ok()?,
            table: str::from_utf8(self.bytes(table?)?).ok()?,
            before: self.image(before)?,
            after: self.image(after)?,
        })
    }

    fn number(&mut self) -> Option<i64> {
        let end = self.rest.iter().position(|byte| *byte == b' ')?;
        let number = str::from_utf8(&self.rest[..end]).ok()?.parse().ok()?;
        self.rest = &self.rest[end + 1..];
        Some(number)
    }

    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }

    /// The image, which may be absent; `None` when the chunk is too short for it.
    #[expect(clippy::option_option, reason = "absent and missing are two things")]
    fn image(&mut self, length: Option<usize>) -> Option<Option<&'a [u8]>> {
        match length {
            None => Some(None),
            Some(length) => self.bytes(length).map(Some),
        }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<RawChange<'a>, &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let frame = self.frame();
        if frame.is_none() {
            self.rest = &[];
        }
        Some(frame.ok_or("its lengths and its texts do not fit together"))
    }
}
