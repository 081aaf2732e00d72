use std::{collections::HashMap, sync::Arc};

use medlake_operational::{
    Connection, OperationalError, Page, Scope, Services, WriteTransaction,
    mall::{
        CatalogueLine, Pricing, coupons, order_states,
        orders::{self, NewOrder},
        payments, pharmacies,
        prescriptions::{self, NewPrescription, NewPrescriptionItem},
        products,
        refunds::{self, NewRefund, NewRefundLine},
    },
};

use super::{ORDER_IDS, Part};
use crate::input::simulate::{
    DAY_MICROS,
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

    /// The prescription of what is sold on one only, if there is any.
    async fn prescription(
        &self,
        tx: &mut WriteTransaction,
        scope: Scope,
        step: &Step,
        basket: &Basket,
    ) -> Result<Option<i64>, OperationalError> {
        let prescribed = catalogue::prescribed(&basket.lines);
        if prescribed.is_empty() {
            return Ok(None);
        }
        let item = |(product, quantity): (usize, i64)| NewPrescriptionItem {
            product_id: self.products[product],
            quantity,
            directions: None,
        };
        let new = NewPrescription {
            person_id: self.model.population.people[step.person].person_id,
            doctor_reference: "doctor".to_owned(),
            signature_reference: format!("order-{}", ORDER_IDS + step.order),
            valid_until: scope.now + DAY_MICROS,
            items: prescribed.into_iter().map(item).collect(),
        };
        let issued = prescriptions::issue_approved(tx, scope, &new, "pharmacist").await?;
        Ok(Some(issued.prescription.prescription_id))
    }

    fn new_order(&self, step: &Step, basket: &Basket) -> NewOrder {
        let lines = basket.lines.iter().map(|(product, quantity)| CatalogueLine {
            product_id: self.products[*product],
            variant_id: None,
            quantity: *quantity,
        });
        NewOrder {
            order_id: Some(ORDER_IDS + step.order),
            promoter_id: basket.promoter.map(super::distribution::id_of),
            coupon_id: basket.coupon.map(|coupon| self.coupons[coupon]),
            shipping_fen: Some(basket.shipping_fen),
            ..NewOrder::new(
                self.model.population.people[step.person].person_id,
                self.pharmacies[basket.pharmacy],
                basket.channel,
                Pricing::Catalogue(lines.collect()),
            )
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
                let prescription_id = self.prescription(tx, scope, step, basket).await?;
                let new = NewOrder { prescription_id, ..self.new_order(step, basket) };
                orders::place(tx, scope, new).await?;
            }
            Act::Pay { method } => {
                payments::pay(tx, scope, order_id, method).await?;
            }
            Act::Close => {
                order_states::close(tx, scope, order_id).await?;
            }
            Act::Refund { line_number, quantity, reason } => {
                let lines = orders::lines(tx, order_id).await?;
                let line = lines.iter().find(|line| line.line_number == *line_number);
                let line =
                    line.ok_or(OperationalError::NotFound { what: "order", id: order_id })?;
                let lines = vec![NewRefundLine::units(line.order_line_id, *quantity)];
                let new = NewRefund::new(*reason, lines);
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
