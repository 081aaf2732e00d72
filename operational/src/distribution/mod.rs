//! The distribution programme: who recommends, to whom a buyer is bound, and what it earns.

pub mod adjustments;
pub mod bindings;
pub mod commission_math;
pub mod commissions;
pub mod distributors;
pub mod ledger;
pub mod payouts;
mod qr_code;
pub mod reconciliation;
pub mod rules;
pub mod settings;
pub mod settlements;
pub mod share_links;
pub mod touches;
pub mod tree_alerts;
pub mod withholding;

use axum::Router;
use utoipa::OpenApi;

use crate::{
    Migration, Migrations, OperationalError, OrderPaid, OrderReceived, OrderRefunded, Services,
    WriteTransaction,
    outbox::{Consumer, Event as _, Message},
    timers::Timer,
};

pub(crate) const NAME: &str = "distribution";

pub(crate) const CONSUMER: Consumer = Consumer {
    name: NAME,
    listens: &[OrderPaid::TYPE, OrderRefunded::TYPE, OrderReceived::TYPE],
    database: Services::distribution,
    receive: |tx, message| Box::pin(receive(tx, message)),
};

/// Frozen commission is released when its time has come.
pub(crate) const RELEASE: Timer = Timer {
    name: "release of commission",
    run: |services| Box::pin(commissions::release_all(services)),
};

async fn receive(tx: &mut WriteTransaction, message: &Message) -> Result<(), OperationalError> {
    match message.event_type.as_str() {
        OrderPaid::TYPE => commissions::accrue(tx, &message.read()?).await,
        OrderRefunded::TYPE => commissions::reverse(tx, &message.read()?).await,
        OrderReceived::TYPE => commissions::receive(tx, &message.read()?).await,
        _ => Ok(()),
    }
}

pub(crate) const MIGRATIONS: Migrations = Migrations {
    sqlite: &[Migration {
        version: 1,
        sql: include_str!("../../../migrations/distribution/sqlite/0001_initial.sql"),
    }],
    mysql: &[Migration {
        version: 1,
        sql: include_str!("../../../migrations/distribution/mysql/0001_initial.sql"),
    }],
};

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .merge(settings::router())
        .merge(distributors::router())
        .merge(tree_alerts::router())
        .merge(share_links::router())
        .merge(touches::router())
        .merge(bindings::router())
        .merge(rules::router())
        .merge(commissions::router())
        .merge(ledger::router())
        .merge(adjustments::router())
        .merge(settlements::router())
        .merge(payouts::router())
        .merge(reconciliation::router())
}

pub(crate) fn openapi() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(paths(
        settings::get,
        settings::post,
        distributors::get_all,
        distributors::get_one,
        distributors::post,
        distributors::post_application,
        distributors::post_approve,
        distributors::post_reject,
        distributors::post_suspend,
        distributors::post_reinstate,
        distributors::post_deactivate,
        tree_alerts::get_all,
        tree_alerts::post_resolve,
        share_links::get_all,
        share_links::get_one,
        share_links::get_qr,
        share_links::post,
        share_links::post_end,
        share_links::follow,
        touches::get_all,
        touches::post,
        bindings::get_all,
        bindings::post,
        rules::get_all,
        rules::post,
        commissions::get_all,
        commissions::post_release,
        ledger::get_balances,
        ledger::get_balance,
        ledger::get_entries,
        adjustments::get_all,
        adjustments::post,
        settlements::get_all,
        settlements::get_one,
        settlements::post,
        payouts::get_all,
        payouts::post,
        payouts::get_records,
        payouts::post_record,
        reconciliation::get
    ))]
    struct Description;
    Description::openapi()
}
