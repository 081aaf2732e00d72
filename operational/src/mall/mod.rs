//! The mall: pharmacies, products and coupons; orders with their payment and refunds.

pub mod allocation;
pub mod coupons;
pub mod orders;
pub mod payments;
pub mod pharmacies;
mod pricing;
pub mod products;
pub mod refunds;

use axum::Router;
use utoipa::OpenApi;

pub use pricing::{CatalogueLine, Pricing, RecordedLine};

use crate::{Migration, Migrations, Services};

pub(crate) const NAME: &str = "mall";

pub(crate) const MIGRATIONS: Migrations = Migrations {
    sqlite: &[Migration {
        version: 1,
        sql: include_str!("../../../migrations/mall/sqlite/0001_initial.sql"),
    }],
    mysql: &[Migration {
        version: 1,
        sql: include_str!("../../../migrations/mall/mysql/0001_initial.sql"),
    }],
};

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .merge(pharmacies::router())
        .merge(products::router())
        .merge(coupons::router())
        .merge(orders::router())
        .merge(payments::router())
        .merge(refunds::router())
}

pub(crate) fn openapi() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(paths(
        pharmacies::post,
        pharmacies::get_all,
        products::post,
        products::get_all,
        coupons::post,
        coupons::get_all,
        orders::post,
        orders::get_one,
        orders::post_close,
        payments::post,
        refunds::post
    ))]
    struct Description;
    Description::openapi()
}
