//! The mall: pharmacies, products with their variants, stock; campaigns, coupons and prescriptions;
//! orders from the cart to their end, with payments and refunds; and visits.

pub mod allocation;
pub mod campaigns;
pub mod carts;
pub mod coupon_claims;
pub mod coupons;
mod limits;
pub mod order_states;
pub mod orders;
pub mod payment_notifications;
pub mod payments;
pub mod pharmacies;
pub mod points;
pub mod prescriptions;
mod pricing;
pub mod products;
pub mod promotions;
mod refund_routes;
pub mod refunds;
mod rules;
mod settings;
pub mod stock;
pub mod variants;
pub mod visits;

use axum::Router;
use utoipa::OpenApi;

pub use pricing::{CatalogueLine, Pricing, RecordedLine};
pub use rules::Rules;
pub use settings::{PaymentChannels, Settings};

use crate::{Migration, Migrations, Services, timers::Timer};

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

/// Orders take the steps that are due.
pub(crate) const SWEEP: Timer = Timer {
    name: "the mall's orders",
    run: |services| Box::pin(async move { order_states::sweep(services).await.map(|_| ()) }),
};

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .merge(pharmacies::router())
        .merge(products::router())
        .merge(variants::router())
        .merge(stock::router())
        .merge(campaigns::router())
        .merge(coupons::router())
        .merge(coupon_claims::router())
        .merge(prescriptions::router())
        .merge(carts::router())
        .merge(orders::router())
        .merge(order_states::router())
        .merge(payments::router())
        .merge(payment_notifications::router())
        .merge(refund_routes::router())
        .merge(points::routes::router())
        .merge(visits::router())
}

pub(crate) fn openapi() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(paths(
        pharmacies::post,
        pharmacies::get_all,
        pharmacies::get_one,
        pharmacies::put,
        products::post,
        products::get_all,
        products::get_one,
        products::put,
        variants::post,
        variants::get_one,
        variants::post_change,
        variants::get_price_changes,
        stock::post,
        stock::get_all,
        stock::get_movements,
        campaigns::post,
        campaigns::get_all,
        campaigns::get_one,
        campaigns::post_end,
        coupons::post,
        coupons::get_all,
        coupons::get_one,
        coupons::post_end,
        coupon_claims::post,
        coupon_claims::get_all,
        prescriptions::post,
        prescriptions::get_all,
        prescriptions::get_one,
        prescriptions::post_review,
        carts::post_line,
        carts::get,
        carts::post_quote,
        carts::post_checkout,
        orders::post,
        orders::get_all,
        orders::get_one,
        order_states::post_close,
        order_states::post_ship,
        order_states::post_receive,
        payments::post,
        payments::get_all,
        payment_notifications::post,
        refund_routes::post,
        refund_routes::post_request,
        refund_routes::get_all,
        refund_routes::get_one,
        refund_routes::post_approve,
        refund_routes::post_reject,
        refund_routes::post_succeed,
        refund_routes::post_fail,
        points::routes::get_accounts,
        points::routes::get_account,
        points::routes::get_lots,
        points::routes::get_entries,
        points::routes::post_adjustment,
        points::routes::get_reconciliation,
        visits::post,
        visits::get_all,
        visits::post_view,
        visits::post_identify
    ))]
    struct Description;
    Description::openapi()
}
