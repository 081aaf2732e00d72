//! Dispensings: what medicine a patient got, from where, and how many days it lasts.

use axum::{Router, extract::State, http::StatusCode, routing};
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::patients;
use crate::{
    OperationalError, OrderPaid, OrderRefunded, Scope, Services, WriteTransaction,
    calendar::business_day,
    database::{Micros, insert_missing, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure},
    scope::check_day,
};

/// The longest supply of one dispensing: ten years.
const DAYS_SUPPLY_MAX: i64 = 3660;

words! {
    /// Where a medicine came from.
    pub enum DispensingSource {
        /// An order of the mall.
        Mall = "mall",
        /// A hospital.
        Hospital = "hospital",
        /// Data of others.
        Import = "import",
    }
}

/// A dispensing to be recorded.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDispensing {
    /// Its id, where one is recorded; otherwise the next free one.
    #[serde(skip_deserializing)]
    #[schema(ignore)]
    pub dispensing_id: Option<i64>,
    /// The patient.
    pub patient_id: i64,
    /// The drug.
    pub drug_code: String,
    /// Its class.
    pub drug_class: String,
    /// The day.
    pub dispensed_on: NaiveDate,
    /// How many days it lasts.
    #[schema(minimum = 1)]
    pub days_supply: i64,
    /// Where it came from.
    pub source: DispensingSource,
}

record! {
    /// A dispensing.
    pub struct Dispensing in "dispensing" {
        /// Its id.
        pub dispensing_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The patient.
        pub patient_id: i64,
        /// The drug.
        pub drug_code: String,
        /// Its class.
        pub drug_class: String,
        /// The day.
        pub dispensed_on: NaiveDate,
        /// How many days it lasts.
        pub days_supply: i64,
        /// Where it came from.
        pub source: DispensingSource,
        /// Microseconds since 1970 (UTC).
        pub created_at: Micros,
    }
}

/// Records dispensings in one statement and returns those that were added: one whose id exists
/// already is left as it is. The patients must exist.
///
/// # Errors
/// `Invalid` when a field is outside its range or a patient is unknown.
pub async fn create_many(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &[NewDispensing],
) -> Result<Vec<Dispensing>, OperationalError> {
    for dispensing in new {
        if dispensing.drug_code.is_empty() || dispensing.drug_class.is_empty() {
            return Err(OperationalError::invalid(
                "a dispensing needs a drug_code and a drug_class",
            ));
        }
        check_day("dispensed_on", Some(dispensing.dispensed_on))?;
        if !(1..=DAYS_SUPPLY_MAX).contains(&dispensing.days_supply) {
            return Err(OperationalError::invalid("days_supply must be between 1 and 3660"));
        }
    }
    let ids = tx.ids::<Dispensing>(new.iter().map(|d| d.dispensing_id)).await?;
    let rows = ids.into_iter().zip(new).map(|(dispensing_id, new)| Dispensing {
        dispensing_id,
        tenant_id: scope.tenant_id,
        patient_id: new.patient_id,
        drug_code: new.drug_code.clone(),
        drug_class: new.drug_class.clone(),
        dispensed_on: new.dispensed_on,
        days_supply: new.days_supply,
        source: new.source,
        created_at: Micros(scope.now),
    });
    insert_missing(tx, rows.collect()).await
}

/// Records one dispensing.
///
/// # Errors
/// `NotFound` for an unknown patient, `Invalid` when a field is outside its range, `Conflict` when
/// its id exists.
pub async fn create(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewDispensing,
) -> Result<Dispensing, OperationalError> {
    patients::find_in_use(tx, scope, new.patient_id).await?;
    create_many(tx, scope, &[new])
        .await?
        .pop()
        .ok_or_else(|| OperationalError::conflict("the dispensing exists already"))
}

/// Turns the medicine lines of a paid order into dispensings, if the buyer is an enrolled patient.
/// A line that became one already is left as it is.
///
/// # Errors
/// When the database fails.
pub async fn from_paid_order(
    tx: &mut WriteTransaction,
    paid: &OrderPaid,
) -> Result<(), OperationalError> {
    let patient: Option<(i64,)> = sql("select patient_id from patient
         where tenant_id = ?1 and person_id = ?2 and status in ('active', 'lost')")
    .bind(paid.tenant_id)
    .bind(paid.person_id)
    .first(tx)
    .await?;
    let Some((patient_id,)) = patient else {
        return Ok(());
    };
    let scope = Scope::of(paid.tenant_id, paid.paid_at);
    for line in &paid.lines {
        let (Some(drug_code), Some(drug_class), Some(days_supply_per_unit)) =
            (&line.drug_code, &line.drug_class, line.days_supply_per_unit)
        else {
            continue;
        };
        if line.quantity < 1 {
            continue;
        }
        let known: bool =
            sql("select exists (select 1 from _mall_dispensing where order_line_id = ?1)")
                .bind(line.order_line_id)
                .value(tx)
                .await?;
        if known {
            continue;
        }
        let new = NewDispensing {
            dispensing_id: None,
            patient_id,
            drug_code: drug_code.clone(),
            drug_class: drug_class.clone(),
            dispensed_on: business_day(paid.paid_at)?,
            days_supply: (line.quantity * days_supply_per_unit).min(DAYS_SUPPLY_MAX),
            source: DispensingSource::Mall,
        };
        let dispensing = create(tx, scope, new).await?;
        sql("insert into _mall_dispensing
                 (order_line_id, dispensing_id, quantity_left, days_supply_per_unit)
             values (?1, ?2, ?3, ?4)")
        .bind(line.order_line_id)
        .bind(dispensing.dispensing_id)
        .bind(line.quantity)
        .bind(days_supply_per_unit)
        .execute(tx)
        .await?;
    }
    Ok(())
}

/// Takes refunded medicine out of the supply: a dispensing shrinks to the units that remain, and
/// goes when none do.
///
/// # Errors
/// When the database fails.
pub async fn from_refund(
    tx: &mut WriteTransaction,
    refunded: &OrderRefunded,
) -> Result<(), OperationalError> {
    for line in &refunded.lines {
        // Only ever down: a message that comes again, or behind a newer one, finds nothing to do.
        let more: Option<(i64, i64)> =
            sql("select dispensing_id, days_supply_per_unit from _mall_dispensing
             where order_line_id = ?1 and quantity_left > ?2 for update")
            .bind(line.order_line_id)
            .bind(line.quantity_left)
            .first(tx)
            .await?;
        let Some((dispensing_id, days_supply_per_unit)) = more else {
            continue;
        };
        sql("update _mall_dispensing set quantity_left = ?2 where order_line_id = ?1")
            .bind(line.order_line_id)
            .bind(line.quantity_left)
            .execute(tx)
            .await?;
        if line.quantity_left == 0 {
            sql("delete from dispensing where dispensing_id = ?1")
                .bind(dispensing_id)
                .execute(tx)
                .await?;
        } else {
            sql("update dispensing set days_supply = ?2 where dispensing_id = ?1")
                .bind(dispensing_id)
                .bind((line.quantity_left * days_supply_per_unit).min(DAYS_SUPPLY_MAX))
                .execute(tx)
                .await?;
        }
    }
    Ok(())
}

pub(crate) fn router() -> Router<Services> {
    Router::new().route("/chronic-care/dispensings", routing::post(post))
}

/// Record a dispensing.
#[utoipa::path(post, path = "/chronic-care/dispensings", tag = "chronic-care",
    request_body = NewDispensing, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Dispensing), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewDispensing>,
) -> Result<Answer, Failure> {
    command
        .carry_out(
            services.chronic_care(),
            services.now(),
            StatusCode::CREATED,
            |tx, scope, new| Box::pin(create(tx, scope, new.clone())),
        )
        .await
}
