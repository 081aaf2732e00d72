//! Identifiers of persons: name, phone, ID card and address, encrypted at rest.
//!
//! Each person has a data key, which encrypts their identifiers (AES-256-GCM, bound to tenant, person and
//! field, so that a ciphertext in another row or column does not open) and is itself kept wrapped by a
//! master key. Who has a phone number or an ID card is found by a token of it, made with the master key.
//! To erase a person is to destroy the data key: what is left in rows, logs and backups opens no more.
//!
//! Each service that keeps identifiers has the same three tables in its own database, and a key of its own
//! for each person. None of them is captured: the lake sees neither identifiers nor ciphertexts.

pub(crate) mod master_keys;
pub(crate) mod rotation;

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    OperationalError, Scope, WriteTransaction,
    database::{Connection, Micros, Value, sql, words},
};
use master_keys::{KEY_BYTES, MasterKeys, open, random_key, seal};

/// The most characters of a field.
const LENGTH_MAX: usize = 200;
/// Persons whose keys are wrapped anew in one transaction.
const REWRAP_BATCH: i64 = 200;
/// Weights of the digits of an ID card's number, GB 11643-1999.
const ID_CARD_WEIGHTS: [u32; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];

words! {
    /// What tells who a person is.
    pub enum Field {
        /// Name.
        Name = "name",
        /// Phone number.
        Phone = "phone",
        /// Number of the resident identity card.
        IdCard = "id_card",
        /// Address.
        Address = "address",
    }
}

/// Identifiers of one person, in the clear.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Identifiers {
    /// Name.
    #[schema(max_length = 200)]
    pub name: Option<String>,
    /// Phone number: digits, perhaps with `+86`, spaces and dashes.
    #[schema(max_length = 200)]
    pub phone: Option<String>,
    /// Number of the resident identity card, 18 characters with its check digit.
    #[schema(max_length = 200)]
    pub id_card: Option<String>,
    /// Address.
    #[schema(max_length = 200)]
    pub address: Option<String>,
}

impl std::fmt::Debug for Identifiers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identifiers(***)")
    }
}

impl Identifiers {
    fn of(&self, field: Field) -> Option<&String> {
        match field {
            Field::Name => self.name.as_ref(),
            Field::Phone => self.phone.as_ref(),
            Field::IdCard => self.id_card.as_ref(),
            Field::Address => self.address.as_ref(),
        }
    }

    fn set(&mut self, field: Field, value: String) {
        *match field {
            Field::Name => &mut self.name,
            Field::Phone => &mut self.phone,
            Field::IdCard => &mut self.id_card,
            Field::Address => &mut self.address,
        } = Some(value);
    }

    /// As they are kept: trimmed, and in the one form that lookups compare.
    ///
    /// # Errors
    /// `Invalid` when one is empty, too long or no such number. No message repeats a value.
    pub(crate) fn checked(&self) -> Result<Self, OperationalError> {
        let mut checked = Self::default();
        for &field in Field::ALL {
            let Some(value) = self.of(field) else { continue };
            let value = value.trim();
            if value.is_empty() || value.chars().count() > LENGTH_MAX {
                return Err(OperationalError::invalid(format!(
                    "{field} must have 1 to {LENGTH_MAX} characters"
                )));
            }
            checked.set(field, canonical(field, value)?);
        }
        Ok(checked)
    }

    /// What may be shown to those who need not know.
    #[must_use]
    pub fn masked(&self) -> Self {
        let mut masked = Self::default();
        for &field in Field::ALL {
            if let Some(value) = self.of(field) {
                masked.set(field, mask(field, value));
            }
        }
        masked
    }
}

fn canonical(field: Field, value: &str) -> Result<String, OperationalError> {
    match field {
        Field::Name | Field::Address => Ok(value.to_owned()),
        Field::Phone => {
            let plain: String = value.chars().filter(|c| !matches!(c, ' ' | '-')).collect();
            let digits = plain.strip_prefix("+86").or(plain.strip_prefix('+')).unwrap_or(&plain);
            let fits =
                (5..=15).contains(&digits.len()) && digits.bytes().all(|c| c.is_ascii_digit());
            fits.then(|| digits.to_owned())
                .ok_or_else(|| OperationalError::invalid("phone must have 5 to 15 digits"))
        }
        Field::IdCard => {
            let number = value.to_ascii_uppercase();
            is_id_card(&number).then_some(number).ok_or_else(|| {
                OperationalError::invalid("id_card is not a number of 18 with its check digit")
            })
        }
    }
}

fn is_id_card(number: &str) -> bool {
    let (Some(digits), Some(check)) = (number.get(..17), number.get(17..)) else { return false };
    let weighted: Option<u32> =
        digits.chars().zip(ID_CARD_WEIGHTS).map(|(c, weight)| Some(c.to_digit(10)? * weight)).sum();
    let expected = weighted.map(|sum| b"10X98765432"[sum as usize % 11]);
    expected.is_some_and(|expected| check.as_bytes() == [expected])
}

/// Masks as they are common: the first character of a name, three and four digits of a mobile number,
/// four and two of another, one and two characters of an ID card, all but the last eight of an address.
fn mask(field: Field, value: &str) -> String {
    let length = value.chars().count();
    let (front, back) = match field {
        Field::Name => (1, 0),
        Field::Phone if length == 11 && value.starts_with('1') => (3, 4),
        Field::Phone => (4, 2),
        Field::IdCard => (1, 2),
        Field::Address => (length.saturating_sub(8), 0),
    };
    let shown = |at: usize| length > front + back && (at < front || at >= length - back);
    value.chars().enumerate().map(|(at, c)| if shown(at) { c } else { '*' }).collect()
}

/// What a person's key is bound to.
fn person(tenant_id: i64, person_id: i64) -> Vec<u8> {
    format!("medlake person v1|{tenant_id}|{person_id}").into_bytes()
}

/// What a ciphertext is bound to.
fn place(tenant_id: i64, person_id: i64, field: Field) -> Vec<u8> {
    format!("medlake identifier v1|{tenant_id}|{person_id}|{field}").into_bytes()
}

/// What a token is made of.
fn looked_up(tenant_id: i64, field: Field, value: &str) -> Vec<u8> {
    format!("{tenant_id}|{field}|{value}").into_bytes()
}

/// Keeps identifiers of persons, those that are given; the others stay as they are. A person without a
/// key gets one.
///
/// # Errors
/// `Invalid` for what is no identifier; `Conflict` for a person who was erased.
pub(crate) async fn keep(
    tx: &mut WriteTransaction,
    scope: Scope,
    of: &[(i64, &Identifiers)],
) -> Result<(), OperationalError> {
    if of.is_empty() {
        return Ok(());
    }
    let keys = tx.master_keys()?;
    let mut known =
        person_keys(tx, &keys, scope.tenant_id, of.iter().map(|(person_id, _)| *person_id)).await?;
    let had_some: HashSet<i64> = known.keys().copied().collect();
    let (mut new_keys, mut texts, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
    for (person_id, identifiers) in of {
        let checked = identifiers.checked()?;
        let key = match known.get(person_id) {
            Some(Some(key)) => *key,
            Some(None) => {
                return Err(OperationalError::conflict(format!("person {person_id} was erased")));
            }
            None => {
                let key = random_key()?;
                let (id, wrapped) = keys.wrap(&person(scope.tenant_id, *person_id), &key)?;
                new_keys.push(vec![
                    scope.tenant_id.into(),
                    (*person_id).into(),
                    id.into(),
                    wrapped.into(),
                    Micros(scope.now).into(),
                ]);
                known.insert(*person_id, Some(key));
                key
            }
        };
        for &field in Field::ALL {
            let Some(value) = checked.of(field) else { continue };
            let bound_to = place(scope.tenant_id, *person_id, field);
            texts.push((*person_id, field, seal(&key, &bound_to, value.as_bytes())?));
            tokens.extend(token(&keys, scope.tenant_id, *person_id, field, value));
        }
    }
    if !new_keys.is_empty() {
        sql(
            "insert into _person_key (tenant_id, person_id, master_key_id, wrapped_key, created_at)
             values {rows}",
        )
        .rows(new_keys)
        .execute(tx)
        .await?;
    }
    for (person_id, field, _) in texts.iter().filter(|(id, ..)| had_some.contains(id)) {
        for table in ["_identifier", "_identifier_token"] {
            sql(format!(
                "delete from {table} where tenant_id = ?1 and person_id = ?2 and field = ?3"
            ))
            .bind(scope.tenant_id)
            .bind(*person_id)
            .bind(*field)
            .execute(tx)
            .await?;
        }
    }
    if !texts.is_empty() {
        let row = |(person_id, field, text): (i64, Field, Vec<u8>)| {
            let at = Micros(scope.now);
            vec![scope.tenant_id.into(), person_id.into(), field.into(), text.into(), at.into()]
        };
        sql("insert into _identifier (tenant_id, person_id, field, ciphertext, updated_at)
             values {rows}")
        .rows(texts.into_iter().map(row))
        .execute(tx)
        .await?;
    }
    keep_tokens(tx, tokens).await
}

/// The row that finds a person by a value, for those fields by which persons are looked up.
fn token(
    keys: &MasterKeys,
    tenant_id: i64,
    person_id: i64,
    field: Field,
    value: &str,
) -> Option<Vec<Value>> {
    let (id, token) = match field {
        Field::Phone | Field::IdCard => keys.tokens(&looked_up(tenant_id, field, value)).pop()?,
        Field::Name | Field::Address => return None,
    };
    Some(vec![tenant_id.into(), field.into(), token.into(), person_id.into(), id.into()])
}

async fn keep_tokens(on: &mut Connection, rows: Vec<Vec<Value>>) -> Result<(), OperationalError> {
    if rows.is_empty() {
        return Ok(());
    }
    sql("insert into _identifier_token (tenant_id, field, token, person_id, master_key_id)
         values {rows}")
    .rows(rows)
    .execute(on)
    .await?;
    Ok(())
}

/// The data keys of persons: none for a person without one, `None` for one whose key was destroyed.
async fn person_keys(
    on: &mut Connection,
    keys: &MasterKeys,
    tenant_id: i64,
    of: impl IntoIterator<Item = i64>,
) -> Result<HashMap<i64, Option<[u8; KEY_BYTES]>>, OperationalError> {
    let rows: Vec<(i64, Option<String>, Option<Vec<u8>>)> =
        sql("select person_id, master_key_id, wrapped_key from _person_key
             where tenant_id = ?1 and person_id in {list}")
        .bind(tenant_id)
        .list(of)
        .all(on)
        .await?;
    rows.into_iter()
        .map(|(person_id, id, wrapped)| {
            let key = id
                .zip(wrapped)
                .map(|(id, wrapped)| keys.unwrap(&id, &person(tenant_id, person_id), &wrapped));
            Ok((person_id, key.transpose()?))
        })
        .collect()
}

/// The identifiers of a person, in the clear; none of one who was erased.
///
/// # Errors
/// `Tampered` when a ciphertext is not what was written, `Key` when its master key is missing.
pub(crate) async fn reveal(
    on: &mut Connection,
    keys: &MasterKeys,
    tenant_id: i64,
    person_id: i64,
) -> Result<Identifiers, OperationalError> {
    let mut identifiers = Identifiers::default();
    let known = person_keys(on, keys, tenant_id, [person_id]).await?;
    let Some(Some(key)) = known.get(&person_id) else { return Ok(identifiers) };
    let rows: Vec<(Field, Vec<u8>)> = sql("select field, ciphertext from _identifier
         where tenant_id = ?1 and person_id = ?2")
    .bind(tenant_id)
    .bind(person_id)
    .all(on)
    .await?;
    for (field, sealed) in rows {
        let text = open(key, &place(tenant_id, person_id, field), &sealed)
            .and_then(|text| String::from_utf8(text).ok())
            .ok_or(OperationalError::Tampered { what: "identifier" })?;
        identifiers.set(field, text);
    }
    Ok(identifiers)
}

/// The persons who have this phone number or ID card.
///
/// # Errors
/// `Invalid` for another field, or for what is no such number.
pub(crate) async fn find(
    on: &mut Connection,
    keys: &MasterKeys,
    tenant_id: i64,
    field: Field,
    value: &str,
) -> Result<Vec<i64>, OperationalError> {
    if !matches!(field, Field::Phone | Field::IdCard) {
        return Err(OperationalError::invalid("persons are looked up by phone or id_card"));
    }
    let tokens = keys.tokens(&looked_up(tenant_id, field, &canonical(field, value.trim())?));
    let found: Vec<(i64,)> = sql("select person_id from _identifier_token
         where tenant_id = ?1 and field = ?2 and token in {list} order by person_id limit 100")
    .bind(tenant_id)
    .bind(field)
    .list(tokens.into_iter().map(|(_, token)| token))
    .all(on)
    .await?;
    Ok(found.into_iter().map(|(person_id,)| person_id).collect())
}

/// Nobody finds the person by phone or ID card any more.
pub(crate) async fn drop_tokens(
    on: &mut Connection,
    tenant_id: i64,
    person_id: i64,
) -> Result<(), OperationalError> {
    sql("delete from _identifier_token where tenant_id = ?1 and person_id = ?2")
        .bind(tenant_id)
        .bind(person_id)
        .execute(on)
        .await?;
    Ok(())
}

/// Destroys the data key of a person. Their identifiers are gone, here and in every copy; that they were
/// here, and since when not, is kept.
pub(crate) async fn shred(
    on: &mut Connection,
    scope: Scope,
    person_id: i64,
) -> Result<(), OperationalError> {
    drop_tokens(on, scope.tenant_id, person_id).await?;
    sql("update _person_key set wrapped_key = null, master_key_id = null, destroyed_at = ?3
         where tenant_id = ?1 and person_id = ?2 and destroyed_at is null")
    .bind(scope.tenant_id)
    .bind(person_id)
    .bind(Micros(scope.now))
    .execute(on)
    .await?;
    // Of no use without the key, and nothing that must be kept.
    sql("delete from _identifier where tenant_id = ?1 and person_id = ?2")
        .bind(scope.tenant_id)
        .bind(person_id)
        .execute(on)
        .await?;
    Ok(())
}

/// Wraps the keys of some persons whom older master keys hold with the one in use, and makes their tokens
/// anew; gives how many. The rows of identifiers stay as they are.
///
/// # Errors
/// `Tampered` for a key that does not open; `Key` when its master key is missing.
pub(crate) async fn rewrap(tx: &mut WriteTransaction) -> Result<u64, OperationalError> {
    let keys = tx.master_keys()?;
    let older: Vec<(i64, i64)> = sql("select tenant_id, person_id from _person_key
             where wrapped_key is not null and master_key_id <> ?1
             union select tenant_id, person_id from _identifier_token where master_key_id <> ?1
             order by tenant_id, person_id limit ?2")
    .bind(keys.current())
    .bind(REWRAP_BATCH)
    .all(tx)
    .await?;
    let done = older.len() as u64;
    for (tenant_id, person_id) in older {
        let wrapped: Option<(Option<String>, Option<Vec<u8>>)> =
            sql("select master_key_id, wrapped_key from _person_key
                 where tenant_id = ?1 and person_id = ?2 for update")
            .bind(tenant_id)
            .bind(person_id)
            .first(tx)
            .await?;
        // Erased since: nothing holds them any more, and nobody finds them.
        let Some((Some(id), Some(wrapped))) = wrapped else {
            drop_tokens(tx, tenant_id, person_id).await?;
            continue;
        };
        let (id, wrapped) = keys.rewrap(&id, &person(tenant_id, person_id), &wrapped)?;
        sql("update _person_key set master_key_id = ?3, wrapped_key = ?4
             where tenant_id = ?1 and person_id = ?2")
        .bind(tenant_id)
        .bind(person_id)
        .bind(id)
        .bind(wrapped)
        .execute(tx)
        .await?;
        // Only where they were: those of a restricted person stay dropped.
        let fields: Vec<(Field,)> = sql("select field from _identifier_token
             where tenant_id = ?1 and person_id = ?2")
        .bind(tenant_id)
        .bind(person_id)
        .all(tx)
        .await?;
        let identifiers = reveal(tx, &keys, tenant_id, person_id).await?;
        let tokens = fields.into_iter().filter_map(|(field,)| {
            token(&keys, tenant_id, person_id, field, identifiers.of(field)?)
        });
        let tokens = tokens.collect();
        drop_tokens(tx, tenant_id, person_id).await?;
        keep_tokens(tx, tokens).await?;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_kept_in_one_form() {
        let given = Identifiers {
            name: Some(" 段正淳 ".into()),
            phone: Some("+86 138-0013-8000".into()),
            id_card: Some("11010519491231002x".into()),
            address: None,
        };
        let kept = given.checked().unwrap();
        assert_eq!(kept.name.as_deref(), Some("段正淳"));
        assert_eq!(kept.phone.as_deref(), Some("13800138000"));
        assert_eq!(kept.id_card.as_deref(), Some("11010519491231002X"));
        assert_eq!(kept.checked().unwrap(), kept);
        for (phone, id_card) in
            [(Some("12x45"), None), (Some("1234"), None), (None, Some("110105194912310021"))]
        {
            let wrong = Identifiers {
                phone: phone.map(str::to_owned),
                id_card: id_card.map(str::to_owned),
                ..Identifiers::default()
            };
            let said = wrong.checked().unwrap_err().to_string();
            assert!(!said.contains(phone.or(id_card).unwrap()), "{said}");
        }
        assert_eq!(format!("{given:?}"), "Identifiers(***)");
    }

    #[test]
    fn a_value_that_is_too_short_for_its_mask_is_hidden_whole() {
        for (field, value, expected) in [
            (Field::Name, "段", "*"),
            (Field::Name, "段誉", "段*"),
            (Field::Phone, "12345", "*****"),
            (Field::Address, "289号", "****"),
        ] {
            assert_eq!(mask(field, value), expected);
        }
    }
}
