use std::{collections::HashMap, sync::Arc};

use medlake_operational::{
    Connection, OperationalError, Page, Scope, Services, WriteTransaction,
    mall::{
        CatalogueLine, Pricing, coupons,
        orders::{self, NewOrder},
        payments, pharmacies, products,
        refunds::{self, NewRefund, NewRefundLine},
    },
};

use super::{ORDER_IDS, Part};
use crate::input::simulate::{
    behaviour::{Act, Basket, Model, Step},
    catalogue,
};

const PAGE_ROWS: u16 = 1_000;
const TENANT: i64 = Scope::DEFAULT_TENANT;

/// The mall's part.
pub(super) struct Mall {
    model: Arc<Model>,
    pharmacies: Vec<i64>,
    pub(super) products: Vec<i64>,
    coupons: Vec<i64>,
}

impl Mall {
    /// Finds what the mall sells, or makes it at `from`.
    pub(super) async fn open(
        services: &Services,
        model: &Arc<Model>,
        from: i64,
    ) -> Result<Self, OperationalError> {
        let mut tx = services.mall().begin(services.now()).await?;
        let scope = Scope::at(from);

        let wanted = catalogue::pharmacies();
        let list = async |on: &mut Connection, page| pharmacies::list(on, TENANT, page).await;
        let mut there = named(&mut tx, list, |row| (row.name, row.pharmacy_id)).await?;
        let missing: Vec<_> =
            wanted.iter().filter(|p| !there.contains_key(&p.name)).cloned().collect();
        for row in pharmacies::create_many(&mut tx, scope, &missing).await? {
            there.insert(row.name, row.pharmacy_id);
        }
        let pharmacies = wanted.iter().map(|p| there[&p.name]).collect();

        let wanted = catalogue::products();
        let list = async |on: &mut Connection, page| products::list(on, TENANT, page).await;
        let mut there = named(&mut tx, list, |row| (row.name, row.product_id)).await?;
        let missing: Vec<_> =
            wanted.iter().filter(|p| !there.contains_key(&p.name)).cloned().collect();
        for row in products::create_many(&mut tx, scope, &missing).await? {
            there.insert(row.name, row.product_id);
        }
        let products = wanted.iter().map(|p| there[&p.name]).collect();

        let wanted = catalogue::coupons();
        let list = async |on: &mut Connection, page| coupons::list(on, TENANT, page).await;
        let mut there = named(&mut tx, list, |row| (row.name, row.coupon_id)).await?;
        let missing: Vec<_> =
            wanted.iter().filter(|c| !there.contains_key(&c.name)).cloned().collect();
        for row in coupons::create_many(&mut tx, scope, &missing).await? {
            there.insert(row.name, row.coupon_id);
        }
        let coupons = wanted.iter().map(|c| there[&c.name]).collect();
        tx.commit().await?;
        Ok(Self { model: Arc::clone(model), pharmacies, products, coupons })
    }

    fn new_order(&self, step: &Step, basket: &Basket) -> NewOrder {
        let lines = basket.lines.iter().map(|(product, quantity)| CatalogueLine {
            product_id: self.products[*product],
            quantity: *quantity,
        });
        NewOrder {
            order_id: Some(ORDER_IDS + step.order),
            person_id: self.model.population.people[step.person].person_id,
            pharmacy_id: self.pharmacies[basket.pharmacy],
            channel: basket.channel,
            promoter_id: basket.promoter.map(super::distribution::id_of),
            coupon_id: basket.coupon.map(|coupon| self.coupons[coupon]),
            shipping_fen: basket.shipping_fen,
            pricing: Pricing::Catalogue(lines.collect()),
        }
    }
}

impl Part for Mall {
    async fn act(
        &mut self,
        tx: &mut WriteTransaction,
        scope: Scope,
        step: &Step,
    ) -> Result<bool, OperationalError> {
        let order_id = ORDER_IDS + step.order;
        match &step.act {
            Act::Place(basket) => {
                orders::place(tx, scope, self.new_order(step, basket)).await?;
            }
            Act::Pay { method } => {
                payments::pay(tx, scope, order_id, method).await?;
            }
            Act::Close => {
                orders::close(tx, scope, order_id).await?;
            }
            Act::Refund { line_number, quantity, reason } => {
                let lines = orders::lines(tx, order_id).await?;
                let line = lines.iter().find(|line| line.line_number == *line_number);
                let line =
                    line.ok_or(OperationalError::NotFound { what: "order", id: order_id })?;
                let lines =
                    vec![NewRefundLine { order_line_id: line.order_line_id, quantity: *quantity }];
                let new = NewRefund { reason: (*reason).to_owned(), lines };
                refunds::refund(tx, scope, order_id, &new).await?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    async fn end_of_day(
        &mut self,
        _: &mut WriteTransaction,
        _: Scope,
    ) -> Result<(), OperationalError> {
        Ok(())
    }
}

/// Ids of all rows of a list, by name.
async fn named<T>(
    on: &mut Connection,
    list: impl AsyncFn(&mut Connection, Page) -> Result<Vec<T>, OperationalError>,
    name_and_id: fn(T) -> (String, i64),
) -> Result<HashMap<String, i64>, OperationalError> {
    let mut found = HashMap::new();
    let mut page = Page { after_id: 0, limit: PAGE_ROWS };
    loop {
        let rows = list(on, page).await?;
        let last = rows.len() < usize::from(PAGE_ROWS);
        for (name, id) in rows.into_iter().map(name_and_id) {
            page.after_id = page.after_id.max(id);
            found.entry(name).or_insert(id);
        }
        if last {
            return Ok(found);
        }
    }
}
