//! The distribution programme: who recommends, to whom a buyer is bound, and what it earns.

pub mod bindings;
pub mod commission_math;
pub mod commissions;
pub mod distributors;
pub mod rules;

use axum::Router;
use utoipa::OpenApi;

use crate::{
    Migration, Migrations, OperationalError, OrderPaid, OrderRefunded, Services, WriteTransaction,
    outbox::{Consumer, Event as _, Message},
};

pub(crate) const NAME: &str = "distribution";

pub(crate) const CONSUMER: Consumer = Consumer {
    name: NAME,
    listens: &[OrderPaid::TYPE, OrderRefunded::TYPE],
    database: Services::distribution,
    receive: |tx, message| Box::pin(receive(tx, message)),
};

async fn receive(tx: &mut WriteTransaction, message: &Message) -> Result<(), OperationalError> {
    match message.event_type.as_str() {
        OrderPaid::TYPE => commissions::accrue(tx, &message.read()?).await,
        OrderRefunded::TYPE => commissions::reverse(tx, &message.read()?).await,
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
        .merge(distributors::router())
        .merge(bindings::router())
        .merge(rules::router())
        .merge(commissions::router())
}

pub(crate) fn openapi() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(paths(
        distributors::post,
        distributors::post_deactivate,
        bindings::post,
        rules::post,
        commissions::get_of_order
    ))]
    struct Description;
    Description::openapi()
}
