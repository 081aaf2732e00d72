//! Chronic care: patients, their medication plans and what they take, measure and are told.

pub mod alerts;
pub mod conditions;
pub mod consents;
pub mod devices;
pub mod dispensings;
pub mod dose_events;
mod facts;
pub mod follow_ups;
pub mod forms;
pub mod measurement;
pub mod medication_plans;
pub mod patients;
pub mod privacy;
pub mod programmes;
pub mod readings;
pub mod slots;
pub mod sweeps;
pub mod templates;

use axum::Router;
use utoipa::OpenApi;

use crate::{
    Migration, Migrations, OperationalError, OrderPaid, OrderRefunded, Services, WriteTransaction,
    outbox::{Consumer, Event as _, Message},
    timers::Timer,
};

pub(crate) const NAME: &str = "chronic_care";

pub(crate) const CONSUMER: Consumer = Consumer {
    name: NAME,
    listens: &[OrderPaid::TYPE, OrderRefunded::TYPE],
    database: Services::chronic_care,
    receive: |tx, message| Box::pin(receive(tx, message)),
};

/// What time brings about by itself.
pub(crate) const SWEEP: Timer = Timer {
    name: "sweep of chronic care",
    run: |services| Box::pin(async move { sweeps::run(services).await.map(drop) }),
};

async fn receive(tx: &mut WriteTransaction, message: &Message) -> Result<(), OperationalError> {
    match message.event_type.as_str() {
        OrderPaid::TYPE => dispensings::from_paid_order(tx, &message.read()?).await,
        OrderRefunded::TYPE => dispensings::from_refund(tx, &message.read()?).await,
        _ => Ok(()),
    }
}

pub(crate) const MIGRATIONS: Migrations = Migrations {
    sqlite: &[Migration {
        version: 1,
        sql: include_str!("../../../migrations/chronic_care/sqlite/0001_initial.sql"),
    }],
    mysql: &[Migration {
        version: 1,
        sql: include_str!("../../../migrations/chronic_care/mysql/0001_initial.sql"),
    }],
};

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .merge(patients::router())
        .merge(privacy::router())
        .merge(consents::router())
        .merge(conditions::router())
        .merge(medication_plans::router())
        .merge(dispensings::router())
        .merge(dose_events::router())
        .merge(slots::router())
        .merge(devices::router())
        .merge(readings::router())
        .merge(follow_ups::router())
        .merge(templates::router())
        .merge(programmes::api::router())
        .merge(alerts::router())
}

pub(crate) fn openapi() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(paths(
        patients::post,
        patients::get_all,
        patients::post_lookup,
        patients::get_one,
        patients::post_status,
        patients::put_identifiers,
        privacy::get_identifiers,
        privacy::get_accesses,
        privacy::post_erasure,
        consents::post,
        consents::post_withdrawal,
        consents::get_all,
        conditions::post,
        conditions::post_resolution,
        conditions::get_all,
        medication_plans::post,
        medication_plans::post_change,
        medication_plans::get_changes,
        slots::post_confirmation,
        slots::get_all,
        devices::post,
        devices::get_all,
        devices::get_one,
        devices::post_assignment,
        devices::post_return,
        devices::post_retirement,
        devices::post_readings,
        dispensings::post,
        dose_events::post,
        readings::post,
        readings::get_all,
        follow_ups::post,
        follow_ups::get_answers,
        templates::stored::post,
        templates::stored::post_check,
        templates::stored::get_all,
        templates::stored::get_one,
        programmes::api::post,
        programmes::api::get_all,
        programmes::api::get_one,
        programmes::api::post_move,
        programmes::api::post_cancellation,
        alerts::get_all,
        alerts::post_acknowledgement,
        alerts::post_resolution
    ))]
    struct Description;
    Description::openapi()
}
