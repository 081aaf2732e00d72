//! Devices: registered by their serial, lent to patients, sending readings many at a time.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    alerts::{self, AlertKind, Raise},
    measurement::{Flag, clock_offset, measured_at},
    patients,
    readings::{self, Meal, ReadingKind, Taken, measured},
    templates::{Setting, Severity},
};
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    calendar::business_day,
    database::{Connection, Micros, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Nothing, Page, Params},
    scope::{check_day, check_time},
};

/// The most readings of one upload.
const UPLOAD_MAX: usize = 1000;
/// A clock that is off by more is told of.
const CLOCK_ALERT_MICROS: i64 = 3600 * 1_000_000;

words! {
    /// What a device measures.
    pub enum DeviceKind {
        /// Blood pressure.
        BloodPressureMonitor = "blood_pressure_monitor",
        /// Glucose in blood.
        GlucoseMeter = "glucose_meter",
    }
}

words! {
    /// Whether a device is used.
    pub enum DeviceStatus {
        /// It is.
        InService = "in_service",
        /// It is past the day to which it is valid: its readings are suspect.
        Expired = "expired",
        /// It is not.
        Retired = "retired",
    }
}

/// A device to be registered.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDevice {
    /// What it measures.
    pub kind: DeviceKind,
    /// The maker's name of it.
    #[schema(min_length = 1, max_length = 100)]
    pub model: String,
    /// The maker's number of it.
    #[schema(min_length = 1, max_length = 100)]
    pub serial: String,
    /// The last day on which it may be used without being calibrated again.
    pub valid_to: Option<NaiveDate>,
}

record! {
    /// A device.
    pub struct Device in "device" {
        /// Its id.
        pub device_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// What it measures.
        pub kind: DeviceKind,
        /// The maker's name of it.
        pub model: String,
        /// The maker's number of it.
        pub serial: String,
        /// Whether it is used.
        pub status: DeviceStatus,
        /// The last day on which it may be used.
        pub valid_to: Option<NaiveDate>,
        /// By how much its clock was behind ours at its last upload; negative when it was ahead.
        pub clock_offset_seconds: Option<i64>,
        /// When that was, in microseconds since 1970 (UTC).
        pub clock_checked_at: Option<Micros>,
        /// Microseconds since 1970 (UTC).
        pub registered_at: Micros,
        /// Grows with each change.
        pub version: i64,
    }
}

record! {
    /// A device with a patient for a time.
    pub struct Assignment in "device_assignment" {
        /// Its id.
        pub assignment_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The device.
        pub device_id: i64,
        /// The patient.
        pub patient_id: i64,
        /// Microseconds since 1970 (UTC).
        pub assigned_at: Micros,
        /// Microseconds since 1970 (UTC); null while the patient has it.
        pub returned_at: Option<Micros>,
    }
}

/// A device and who has had it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DeviceDetail {
    /// The device.
    #[serde(flatten)]
    pub device: Device,
    /// With whom it was, the oldest first.
    pub assignments: Vec<Assignment>,
}

/// Who gets a device.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewAssignment {
    /// The patient.
    patient_id: i64,
}

/// A reading in the memory of a device.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceReading {
    /// What its clock said, in microseconds since 1970 (UTC).
    pub measured_at: i64,
    /// Of a blood pressure monitor.
    pub systolic_mmhg: Option<i64>,
    /// Of a blood pressure monitor.
    pub diastolic_mmhg: Option<i64>,
    /// Of a blood pressure monitor, instead of `systolic_mmhg`.
    pub systolic_kpa: Option<f64>,
    /// Of a blood pressure monitor, instead of `diastolic_mmhg`.
    pub diastolic_kpa: Option<f64>,
    /// Heart beats a minute, perhaps of a blood pressure monitor.
    pub pulse_per_min: Option<i64>,
    /// Of a glucose meter: micromol per litre, a thousandth of a mmol/L.
    pub glucose_umol_per_l: Option<i64>,
    /// Of a glucose meter, instead of `glucose_umol_per_l`.
    pub glucose_mmol_per_l: Option<f64>,
    /// Of a glucose meter, instead of `glucose_umol_per_l`; divided by 18.016.
    pub glucose_mg_per_dl: Option<f64>,
    /// Perhaps of a glucose meter.
    pub meal: Option<Meal>,
}

/// Readings of a device.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Upload {
    /// What the clock of the device says now: by how much it is off corrects the times.
    pub device_now: Option<i64>,
    /// The readings, in any order; the same one may come again.
    #[schema(max_items = 1000)]
    pub readings: Vec<DeviceReading>,
}

/// A reading that was not taken in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RefusedReading {
    /// Its place in the upload, from 0.
    pub position: usize,
    /// Why.
    pub message: String,
}

/// What became of an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Uploaded {
    /// Readings that are new.
    pub recorded: u64,
    /// Of them, those that cannot be right.
    pub suspect: u64,
    /// Readings that were there already.
    pub duplicates: u64,
    /// By how much the clock was corrected.
    pub clock_offset_seconds: Option<i64>,
    /// Readings that were not taken in; the others were.
    pub refused: Vec<RefusedReading>,
}

/// Registers a device.
///
/// # Errors
/// `Invalid` without a model or a serial; `Conflict` when it is registered.
pub async fn register(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &NewDevice,
) -> Result<Device, OperationalError> {
    let fits = |text: &str| (1..=100).contains(&text.trim().chars().count());
    if !fits(&new.model) || !fits(&new.serial) {
        return Err(OperationalError::invalid("model and serial must have 1 to 100 characters"));
    }
    check_day("valid_to", new.valid_to)?;
    let device = Device {
        device_id: tx.id::<Device>(None).await?,
        tenant_id: scope.tenant_id,
        kind: new.kind,
        model: new.model.trim().to_owned(),
        serial: new.serial.trim().to_owned(),
        status: DeviceStatus::InService,
        valid_to: new.valid_to,
        clock_offset_seconds: None,
        clock_checked_at: None,
        registered_at: Micros(scope.now),
        version: 1,
    };
    insert_one(tx, &device).await.map_err(|error| {
        error.or_taken(|| format!("the {} \"{}\" is registered already", new.kind, device.serial))
    })?;
    Ok(device)
}

async fn lock(
    tx: &mut WriteTransaction,
    scope: Scope,
    device_id: i64,
) -> Result<Device, OperationalError> {
    sql("select * from device where device_id = ?1 and tenant_id = ?2 for update")
        .bind(device_id)
        .bind(scope.tenant_id)
        .first(tx)
        .await?
        .ok_or(OperationalError::not_found("device", device_id))
}

/// Who has a device, or had it at a time.
async fn with_whom(
    on: &mut Connection,
    device_id: i64,
    at: Option<i64>,
) -> Result<Option<Assignment>, OperationalError> {
    match at {
        None => {
            sql("select * from device_assignment where device_id = ?1 and returned_at is null")
                .bind(device_id)
                .first(on)
                .await
        }
        Some(at) => {
            sql("select * from device_assignment where device_id = ?1 and assigned_at <= ?2
                 and (returned_at is null or returned_at > ?2)")
            .bind(device_id)
            .bind(Micros(at))
            .first(on)
            .await
        }
    }
}

/// The devices that a patient has, by their ids.
///
/// # Errors
/// When the database fails.
pub async fn of_patient(
    on: &mut Connection,
    patient_id: i64,
) -> Result<Vec<Device>, OperationalError> {
    sql("select d.* from device d join device_assignment a on a.device_id = d.device_id
         where a.patient_id = ?1 and a.returned_at is null order by d.device_id limit 1000")
    .bind(patient_id)
    .all(on)
    .await
}

/// Gives a device to a patient.
///
/// # Errors
/// `NotFound` for an unknown device or patient; `Conflict` when the device is not used, or with somebody.
pub async fn assign(
    tx: &mut WriteTransaction,
    scope: Scope,
    device_id: i64,
    patient_id: i64,
) -> Result<Assignment, OperationalError> {
    patients::lock_in_use(tx, scope, patient_id).await?;
    let device = lock(tx, scope, device_id).await?;
    if device.status != DeviceStatus::InService {
        return Err(OperationalError::conflict(format!("device {device_id} is {}", device.status)));
    }
    if let Some(with) = with_whom(tx, device_id, None).await? {
        return Err(OperationalError::conflict(format!(
            "device {device_id} is with patient {}; it must be returned first",
            with.patient_id
        )));
    }
    let assignment = Assignment {
        assignment_id: tx.id::<Assignment>(None).await?,
        tenant_id: scope.tenant_id,
        device_id,
        patient_id,
        assigned_at: Micros(scope.now),
        returned_at: None,
    };
    insert_one(tx, &assignment).await?;
    Ok(assignment)
}

/// Takes a device back; tells from whom.
async fn take_back(
    tx: &mut WriteTransaction,
    scope: Scope,
    device_id: i64,
) -> Result<Assignment, OperationalError> {
    lock(tx, scope, device_id).await?;
    let Some(mut with) = with_whom(tx, device_id, None).await? else {
        return Err(OperationalError::conflict(format!("device {device_id} is with nobody")));
    };
    with.returned_at = Some(Micros(scope.now));
    sql("update device_assignment set returned_at = ?2 where assignment_id = ?1")
        .bind(with.assignment_id)
        .bind(with.returned_at)
        .execute(tx)
        .await?;
    Ok(with)
}

/// Takes a device out of use.
async fn retire(
    tx: &mut WriteTransaction,
    scope: Scope,
    device_id: i64,
) -> Result<Device, OperationalError> {
    let mut device = lock(tx, scope, device_id).await?;
    if device.status == DeviceStatus::Retired {
        return Err(OperationalError::conflict(format!("device {device_id} is retired already")));
    }
    if with_whom(tx, device_id, None).await?.is_some() {
        take_back(tx, scope, device_id).await?;
    }
    device.status = DeviceStatus::Retired;
    device.version += 1;
    sql("update device set status = ?2, version = ?3 where device_id = ?1")
        .bind(device_id)
        .bind(device.status)
        .bind(device.version)
        .execute(tx)
        .await?;
    Ok(device)
}

/// That a customer has a device now; for everybody else it is another's, and not there.
async fn own(
    on: &mut Connection,
    scope: Scope,
    device_id: i64,
) -> Result<Assignment, OperationalError> {
    let hidden = OperationalError::not_found("device", device_id);
    let with = with_whom(on, device_id, None).await?.ok_or(hidden)?;
    let patient = patients::find(on, scope, with.patient_id).await;
    patient.map_err(|error| error.of("device", device_id))?;
    Ok(with)
}

/// Takes in the readings of a device, each for the patient who had it when it was measured. Readings that
/// cannot be taken in are told of in the answer.
///
/// # Errors
/// `Invalid` without readings or with too many, `NotFound` for an unknown device, `Conflict` for one that is
/// retired.
pub async fn upload(
    tx: &mut WriteTransaction,
    scope: Scope,
    device_id: i64,
    upload: &Upload,
) -> Result<Uploaded, OperationalError> {
    if upload.readings.is_empty() || upload.readings.len() > UPLOAD_MAX {
        return Err(OperationalError::invalid(format!("an upload has 1 to {UPLOAD_MAX} readings")));
    }
    check_time("device_now", upload.device_now)?;
    let now = scope.now;
    let device: Option<Device> =
        sql("select * from device where device_id = ?1 and tenant_id = ?2")
            .bind(device_id)
            .bind(scope.tenant_id)
            .first(tx)
            .await?;
    let device = device.ok_or(OperationalError::not_found("device", device_id))?;
    if scope.only_person().is_some() {
        own(tx, scope, device_id).await?;
    }
    if device.status == DeviceStatus::Retired {
        return Err(OperationalError::conflict(format!("device {device_id} is retired")));
    }
    let offset = clock_offset(upload.device_now, now);
    let mut done = Uploaded {
        recorded: 0,
        suspect: 0,
        duplicates: 0,
        clock_offset_seconds: offset.map(|micros| micros / 1_000_000),
        refused: Vec::new(),
    };
    let kind = match device.kind {
        DeviceKind::BloodPressureMonitor => ReadingKind::BloodPressure,
        DeviceKind::GlucoseMeter => ReadingKind::Glucose,
    };
    // Oldest first, so that alerts come in the order of what happened; each patient is held once.
    let mut order: Vec<usize> = (0..upload.readings.len()).collect();
    order.sort_by_key(|&position| upload.readings[position].measured_at);
    let mut held: Option<patients::Patient> = None;
    for position in order {
        let reading = &upload.readings[position];
        let mut refuse = |message: String| done.refused.push(RefusedReading { position, message });
        let checked = check_time("measured_at", Some(reading.measured_at))
            .and_then(|()| measured!(reading).values(kind));
        let values = match checked {
            Ok(values) => values,
            Err(error) => {
                refuse(error.to_string());
                continue;
            }
        };
        let (at, flag) = measured_at(reading.measured_at, offset, now);
        let Some(with) = with_whom(tx, device_id, Some(at)).await? else {
            refuse("nobody had the device when it was measured".to_owned());
            continue;
        };
        if held.as_ref().is_none_or(|patient| patient.patient_id != with.patient_id) {
            match patients::lock_in_use(tx, scope, with.patient_id).await {
                Ok(patient) => held = Some(patient),
                // Of another who had it then, a customer does not learn that they had.
                Err(OperationalError::NotFound { .. }) => {
                    refuse("nobody had the device when it was measured".to_owned());
                    continue;
                }
                Err(error @ OperationalError::Conflict { .. }) => {
                    refuse(error.to_string());
                    continue;
                }
                Err(error) => return Err(error),
            }
        }
        let Some(patient) = &held else { continue };
        let expired = device.valid_to.is_some_and(|to| business_day(at).is_ok_and(|day| day > to));
        let taken = Taken {
            kind,
            values,
            meal: reading.meal,
            setting: Setting::Home,
            measured_at: at,
            device: Some((device_id, reading.measured_at)),
            flags: flag.into_iter().chain(expired.then_some(Flag::DeviceExpired)).collect(),
        };
        let (reading, new) = readings::take(tx, scope, patient, taken).await?;
        done.recorded += u64::from(new);
        done.duplicates += u64::from(!new);
        done.suspect += u64::from(new && reading.quality == readings::Quality::Suspect);
    }
    done.refused.sort_by_key(|refused| refused.position);
    if let Some(offset) = offset {
        sql("update device set clock_offset_seconds = ?2, clock_checked_at = ?3 where device_id = ?1")
            .bind(device_id)
            .bind(offset / 1_000_000)
            .bind(Micros(now))
            .execute(tx)
            .await?;
        if offset.abs() > CLOCK_ALERT_MICROS {
            let day = business_day(now)?;
            let raise = Raise {
                kind: AlertKind::Device,
                severity: Severity::Info,
                rule: format!("device_clock/{device_id}"),
                cause: format!("device:{device_id}:clock:{day}"),
                title: "the clock of a device is wrong",
            };
            alerts::raise(tx, scope, held.as_ref(), raise).await?;
        }
    }
    Ok(done)
}

/// Devices that were valid until yesterday are expired from today on; gives how many.
///
/// # Errors
/// When the database fails.
pub(crate) async fn sweep(tx: &mut WriteTransaction, now: i64) -> Result<u64, OperationalError> {
    let due: Vec<Device> = sql("select * from device
         where valid_to < ?1 and status = 'in_service' order by device_id limit 500 for update")
    .bind(business_day(now)?)
    .all(tx)
    .await?;
    for device in &due {
        sql("update device set status = 'expired', version = version + 1 where device_id = ?1")
            .bind(device.device_id)
            .execute(tx)
            .await?;
        let raise = Raise {
            kind: AlertKind::Device,
            severity: Severity::Warning,
            rule: format!("device_expired/{}", device.device_id),
            cause: format!("device:{}:expired", device.device_id),
            title: "a device may not be used any longer",
        };
        alerts::raise(tx, Scope::of(device.tenant_id, now), None, raise).await?;
    }
    Ok(due.len() as u64)
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/chronic-care/devices", routing::post(post).get(get_all))
        .route("/chronic-care/devices/{id}", routing::get(get_one))
        .route("/chronic-care/devices/{id}/assignment", routing::post(post_assignment))
        .route("/chronic-care/devices/{id}/return", routing::post(post_return))
        .route("/chronic-care/devices/{id}/retirement", routing::post(post_retirement))
        .route("/chronic-care/devices/{id}/readings", routing::post(post_readings))
}

/// Register a device.
#[utoipa::path(post, path = "/chronic-care/devices", tag = "chronic-care",
    request_body = NewDevice, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Device), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewDevice>,
) -> Result<Answer, Failure> {
    command
        .carry_out(
            services.chronic_care(),
            services.now(),
            StatusCode::CREATED,
            |tx, scope, new| Box::pin(register(tx, scope, new)),
        )
        .await
}

/// List devices.
#[utoipa::path(get, path = "/chronic-care/devices", tag = "chronic-care", params(Page),
    responses((status = 200, body = List<Device>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(page): Params<Page>,
) -> Result<Json<List<Device>>, Failure> {
    let items = sql("select d.* from device d where d.tenant_id = ?1 and d.device_id > ?2
             and (?4 is null or exists (select 1 from device_assignment a
                 join patient p on p.patient_id = a.patient_id
                 where a.device_id = d.device_id and p.person_id = ?4 and a.returned_at is null))
         order by d.device_id limit ?3")
    .bind(scope.tenant_id)
    .bind(page.after_id)
    .bind(page.limit.rows())
    .bind(scope.only_person())
    .all(&mut *services.chronic_care().read().await?)
    .await?;
    Ok(Json(List { items }))
}

/// A device, and who has had it.
#[utoipa::path(get, path = "/chronic-care/devices/{id}", tag = "chronic-care",
    params(("id" = i64, Path)),
    responses((status = 200, body = DeviceDetail), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_one(
    State(services): State<Services>,
    scope: Scope,
    Id(device_id): Id,
) -> Result<Json<DeviceDetail>, Failure> {
    let mut tx = services.chronic_care().read().await?;
    let device: Option<Device> =
        sql("select * from device where device_id = ?1 and tenant_id = ?2")
            .bind(device_id)
            .bind(scope.tenant_id)
            .first(&mut tx)
            .await?;
    let device = device.ok_or(OperationalError::not_found("device", device_id))?;
    let mut assignments: Vec<Assignment> =
        sql("select * from device_assignment where device_id = ?1
             order by assignment_id limit 1000")
        .bind(device_id)
        .all(&mut tx)
        .await?;
    if scope.only_person().is_some() {
        assignments = vec![own(&mut tx, scope, device_id).await?];
    }
    Ok(Json(DeviceDetail { device, assignments }))
}

/// Give a device to a patient.
#[utoipa::path(post, path = "/chronic-care/devices/{id}/assignment", tag = "chronic-care",
    request_body = NewAssignment,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Assignment), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_assignment(
    State(services): State<Services>,
    Id(device_id): Id,
    command: Command<NewAssignment>,
) -> Result<Answer, Failure> {
    command
        .carry_out(
            services.chronic_care(),
            services.now(),
            StatusCode::CREATED,
            |tx, scope, new| Box::pin(assign(tx, scope, device_id, new.patient_id)),
        )
        .await
}

/// Take a device back.
#[utoipa::path(post, path = "/chronic-care/devices/{id}/return", tag = "chronic-care",
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Assignment), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_return(
    State(services): State<Services>,
    Id(device_id): Id,
    command: Command<Nothing>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.chronic_care(), services.now(), StatusCode::OK, |tx, scope, _| {
            Box::pin(take_back(tx, scope, device_id))
        })
        .await
}

/// Take a device out of use.
#[utoipa::path(post, path = "/chronic-care/devices/{id}/retirement", tag = "chronic-care",
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Device), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_retirement(
    State(services): State<Services>,
    Id(device_id): Id,
    command: Command<Nothing>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.chronic_care(), services.now(), StatusCode::OK, |tx, scope, _| {
            Box::pin(retire(tx, scope, device_id))
        })
        .await
}

/// Take in readings of a device. Those that cannot be taken in are named; the others are.
#[utoipa::path(post, path = "/chronic-care/devices/{id}/readings", tag = "chronic-care",
    request_body = Upload,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Uploaded), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_readings(
    State(services): State<Services>,
    Id(device_id): Id,
    command: Command<Upload>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.chronic_care(), services.now(), StatusCode::OK, |tx, scope, body| {
            Box::pin(upload(tx, scope, device_id, body))
        })
        .await
}
