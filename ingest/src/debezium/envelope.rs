use std::borrow::Cow;

use crate::debezium::{json::Json, problem::Problem};

/// What a message of a Debezium connector says. Rows are left as the text they came as.
#[derive(Debug)]
pub(crate) enum Message<'a> {
    /// Nothing about any row: a tombstone, a heartbeat, a logical decoding message.
    Nothing,
    Change(Box<Change<'a>>),
    Boundary(Boundary<'a>),
    /// A change of schemas, on the topic of their own: the array of tables.
    Tables(&'a str),
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangeOp {
    Read,
    Create,
    Update,
    Delete,
    Truncate,
}

impl ChangeOp {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "r",
            Self::Create => "c",
            Self::Update => "u",
            Self::Delete => "d",
            Self::Truncate => "t",
        }
    }
}

/// One row change.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    /// The text of the schema beside it, if it has one.
    pub(crate) schema: Option<&'a str>,
    pub(crate) op: ChangeOp,
    pub(crate) before: Option<&'a str>,
    pub(crate) after: Option<&'a str>,
    pub(crate) origin: Origin<'a>,
    /// When it was made in the database, in microseconds since 1970.
    pub(crate) micros: Option<i64>,
    /// Its transaction's id and its place in it, where the connector says so.
    pub(crate) transaction: Option<(Cow<'a, str>, u64)>,
}

/// Where a change was made; what a connector does not say is empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin<'a> {
    pub(crate) connector: Cow<'a, str>,
    pub(crate) db: Cow<'a, str>,
    pub(crate) schema: Cow<'a, str>,
    pub(crate) table: Cow<'a, str>,
}

/// The beginning or end of a transaction, on the topic of their own.
#[derive(Debug)]
pub(crate) struct Boundary<'a> {
    pub(crate) id: Cow<'a, str>,
    /// Of an end: how many changes there are of each table, named as the database names it.
    pub(crate) counts: Option<Vec<(String, u64)>>,
}

/// The fields of all kinds of messages.
#[derive(Debug, Default)]
struct Fields<'a> {
    schema: Option<&'a str>,
    op: Option<Cow<'a, str>>,
    before: Option<&'a str>,
    after: Option<&'a str>,
    source: Option<&'a str>,
    transaction: Option<&'a str>,
    micros: Option<i64>,
    tables: Option<&'a str>,
    ddl: bool,
    status: Option<Cow<'a, str>>,
    id: Option<Cow<'a, str>>,
    counts: Option<&'a str>,
    payload: Payload,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Payload {
    #[default]
    None,
    Null,
    Some,
}

impl<'a> Message<'a> {
    /// Reads the value of a message. `known` is the text of a schema that is likely to come again:
    /// it is stepped over without being read.
    pub(crate) fn read(value: Option<&'a [u8]>, known: &str) -> Result<Self, Problem> {
        let Some(value) = value.filter(|v| !v.is_empty()) else { return Ok(Self::Nothing) };
        let mut json = Json::new(std::str::from_utf8(value).map_err(Problem::Text)?);
        if json.null()? {
            return Ok(Self::Nothing);
        }
        let mut fields = Fields::default();
        fields.read(&mut json, known, true)?;
        json.end()?;
        fields.message()
    }
}

impl<'a> Fields<'a> {
    fn read(&mut self, json: &mut Json<'a>, known: &str, outer: bool) -> Result<(), Problem> {
        json.object()?;
        let mut first = true;
        while let Some(name) = json.key(first)? {
            first = false;
            match &*name {
                "schema" if outer => self.schema = read_schema(json, known)?,
                "payload" if outer => {
                    self.payload = if json.null()? {
                        Payload::Null
                    } else {
                        self.read(json, "", false)?;
                        Payload::Some
                    };
                }
                "before" => self.before = some(json)?,
                "after" => self.after = some(json)?,
                "source" => self.source = some(json)?,
                "transaction" => self.transaction = some(json)?,
                "op" => self.op = text(json)?,
                "status" => self.status = text(json)?,
                "id" => self.id = text(json)?,
                "data_collections" => self.counts = some(json)?,
                "tableChanges" => self.tables = some(json)?,
                "ddl" => self.ddl = some(json)?.is_some(),
                "ts_ms" => {
                    let millis = some(json)?.and_then(|t| t.parse::<i64>().ok());
                    self.micros = self.micros.or(millis.and_then(|t| t.checked_mul(1000)));
                }
                _ => drop(json.raw()?),
            }
        }
        Ok(())
    }

    fn message(self) -> Result<Message<'a>, Problem> {
        if self.payload == Payload::Null {
            return Ok(Message::Nothing);
        }
        match (&self.op, &self.status) {
            (Some(op), _) => {
                let op = match &**op {
                    "r" => ChangeOp::Read,
                    "c" => ChangeOp::Create,
                    "u" => ChangeOp::Update,
                    "d" => ChangeOp::Delete,
                    "t" => ChangeOp::Truncate,
                    // A message written into the log by an application.
                    "m" => return Ok(Message::Nothing),
                    _ => return Err(Problem::Envelope("its op is none of r, c, u, d, t, m")),
                };
                self.change(op).map(|change| Message::Change(Box::new(change)))
            }
            (None, Some(status)) => {
                let counts = match &**status {
                    "BEGIN" => None,
                    "END" => Some(self.counts.map_or(Ok(Vec::new()), read_counts)?),
                    _ => return Err(Problem::Envelope("its status is neither BEGIN nor END")),
                };
                let id = self.id.ok_or(Problem::Envelope("a transaction has no id"))?;
                Ok(Message::Boundary(Boundary { id, counts }))
            }
            _ if self.ddl || self.tables.is_some() => {
                Ok(Message::Tables(self.tables.unwrap_or("[]")))
            }
            // A heartbeat has the time and nothing else.
            _ if self.micros.is_some() && self.before.is_none() && self.after.is_none() => {
                Ok(Message::Nothing)
            }
            _ => Err(Problem::Envelope("it has no op")),
        }
    }

    fn change(self, op: ChangeOp) -> Result<Change<'a>, Problem> {
        let (origin, made) = self.source.map_or(Ok(Default::default()), read_source)?;
        Ok(Change {
            schema: self.schema,
            op,
            before: self.before,
            after: self.after,
            origin,
            micros: made.or(self.micros),
            transaction: self.transaction.map_or(Ok(None), read_transaction)?,
        })
    }
}

/// The next value's text, unless it is null.
fn some<'a>(json: &mut Json<'a>) -> Result<Option<&'a str>, Problem> {
    let text = json.raw()?;
    Ok((text != "null").then_some(text))
}

/// The next value if it is a string.
fn text<'a>(json: &mut Json<'a>) -> Result<Option<Cow<'a, str>>, Problem> {
    if json.peek()? == b'"' {
        return json.string().map(Some);
    }
    json.raw().map(|_| None)
}

fn read_schema<'a>(json: &mut Json<'a>, known: &str) -> Result<Option<&'a str>, Problem> {
    let rest = json.rest()?;
    if !known.is_empty()
        && let Some(same) = rest.get(..known.len()).filter(|text| *text == known)
    {
        json.step_over(known);
        return Ok(Some(same));
    }
    some(json)
}

fn read_source(text: &str) -> Result<(Origin<'_>, Option<i64>), Problem> {
    let mut origin = Origin::default();
    let (mut millis, mut micros) = (None, None);
    let mut json = Json::new(text);
    json.object()?;
    let mut first = true;
    while let Some(name) = json.key(first)? {
        first = false;
        let field = match &*name {
            "connector" => &mut origin.connector,
            "db" => &mut origin.db,
            "schema" => &mut origin.schema,
            "table" => &mut origin.table,
            "ts_ms" | "ts_us" => {
                let number = json.raw()?.parse::<i64>().ok().filter(|t| *t > 0);
                if name == "ts_ms" {
                    millis = number
                } else {
                    micros = number
                }
                continue;
            }
            _ => {
                json.raw()?;
                continue;
            }
        };
        *field = self::text(&mut json)?.unwrap_or_default();
    }
    Ok((origin, micros.or_else(|| millis?.checked_mul(1000))))
}

fn read_transaction(text: &str) -> Result<Option<(Cow<'_, str>, u64)>, Problem> {
    let (mut id, mut order) = (None, 0);
    let mut json = Json::new(text);
    json.object()?;
    let mut first = true;
    while let Some(name) = json.key(first)? {
        first = false;
        match &*name {
            "id" => id = self::text(&mut json)?,
            "total_order" => {
                order = json.raw()?.trim_matches('"').parse().unwrap_or(0);
            }
            _ => drop(json.raw()?),
        }
    }
    Ok(id.map(|id| (id, order)))
}

fn read_counts(text: &str) -> Result<Vec<(String, u64)>, Problem> {
    #[derive(serde::Deserialize)]
    struct Count {
        data_collection: String,
        event_count: u64,
    }
    let counts: Vec<Count> = serde_json::from_str(text)
        .map_err(|_| Problem::Envelope("the counts of its transaction cannot be read"))?;
    Ok(counts.into_iter().map(|c| (c.data_collection, c.event_count)).collect())
}

/// The payload of a message's key, and its schema: an object of the key's columns.
pub(crate) fn read_key(key: Option<&[u8]>) -> Result<(Option<&str>, Option<&str>), Problem> {
    let Some(key) = key.filter(|k| !k.is_empty()) else { return Ok((None, None)) };
    let text = std::str::from_utf8(key).map_err(Problem::Text)?;
    let mut json = Json::new(text);
    if json.peek()? != b'{' {
        // Keys that are no objects are those of another converter.
        return Ok((None, None));
    }
    let (mut schema, mut payload, mut count) = (None, None, 0);
    json.object()?;
    while let Some(name) = json.key(count == 0)? {
        count += 1;
        match &*name {
            "schema" => schema = some(&mut json)?,
            "payload" => payload = some(&mut json)?,
            _ => drop(json.raw()?),
        }
    }
    json.end()?;
    match payload.filter(|p| count == 2 && p.starts_with('{')) {
        Some(payload) => Ok((Some(payload), schema)),
        None => Ok((Some(text), None)),
    }
}
