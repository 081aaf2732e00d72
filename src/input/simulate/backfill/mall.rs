use std::{collections::HashMap, sync::Arc};

use medlake_operational::{
    Connection, Limit, OperationalError, Page, Scope, Services, WriteTransaction,
    mall::{
        CatalogueLine, Pricing, campaigns,
        carts::{self, SetCartLine},
        coupon_claims, coupons,
        order_states::{self, Shipment, Swept},
        orders::{self, NewOrder},
        payments, pharmacies,
        points::PointsRules,
        prescriptions::{self, NewPrescription, NewPrescriptionItem},
        products,
        refunds::{self, NewRefund, NewRefundLine},
        stock::{self, MovementKind, NewMovement},
        variants,
        visits::{self, NewPageView, NewVisit, PageKind},
    },
};

use super::{ORDER_IDS, Part};
use crate::input::simulate::{
    DAY_MICROS,
    behaviour::{Act, Basket, Model, RefundPart, Step, Visit},
    catalogue,
};

const CARRIER: &str = "simulated carrier";
/// When a parcel of which nobody says so counts as received.
const RECEIVED_AFTER_MICROS: i64 = 15 * DAY_MICROS;
const TENANT: i64 = Scope::DEFAULT_TENANT;

/// The mall's part.
pub(super) struct Mall {
    model: Arc<Model>,
    pharmacies: Vec<i64>,
    pub(super) products: Vec<i64>,
    /// The variant of each product.
    variants: Vec<i64>,
    coupons: Vec<i64>,
    /// Persons and their visits that are not written yet.
    visits: Vec<(i64, Visit)>,
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
        let products: Vec<i64> = wanted.iter().map(|p| there[&p.name]).collect();
        let mut variants = Vec::with_capacity(products.len());
        for product_id in &products {
            let of_product = variants::of_product(&mut tx, *product_id).await?;
            let unknown = OperationalError::NotFound { what: "product", id: *product_id };
            variants.push(of_product.first().ok_or(unknown)?.variant_id);
        }

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
        let (model, visits) = (Arc::clone(model), Vec::new());
        Ok(Self { model, pharmacies, products, variants, coupons, visits })
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

    /// Writes the visits that were not written yet.
    async fn note_visits(
        &mut self,
        tx: &mut WriteTransaction,
        scope: Scope,
    ) -> Result<(), OperationalError> {
        let visits = std::mem::take(&mut self.visits);
        if visits.is_empty() {
            return Ok(());
        }
        let new: Vec<(i64, NewVisit)> = visits
            .iter()
            .map(|(person_id, visit)| {
                let new = NewVisit {
                    visitor_key: format!("person-{person_id}"),
                    person_id: Some(*person_id),
                    channel: visit.channel,
                    referrer: None,
                    campaign_code: visit.campaign.map(str::to_owned),
                    share_code: None,
                };
                (visit.pages[0].0, new)
            })
            .collect();
        let made = visits::start_many(tx, scope, &new).await?;
        let views: Vec<(i64, i64, NewPageView)> = made
            .iter()
            .zip(&visits)
            .flat_map(|(made, (_, visit))| {
                visit.pages.iter().enumerate().map(|(place, (at, product))| {
                    let page = match (place, product) {
                        (0, _) => PageKind::Home,
                        (_, Some(_)) => PageKind::Product,
                        (_, None) => PageKind::List,
                    };
                    let product_id = product.map(|product| self.products[product]);
                    (made.visit_id, *at, NewPageView { page, product_id })
                })
            })
            .collect();
        visits::view_many(tx, scope, &views).await
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
                // What led to the order is looked for among the visits.
                self.note_visits(tx, scope).await?;
                let prescription_id = self.prescription(tx, scope, step, basket).await?;
                let new = NewOrder { prescription_id, ..self.new_order(step, basket) };
                orders::place(tx, scope, new).await?;
            }
            Act::Pay { method } => {
                payments::pay(tx, scope, order_id, method).await?;
            }
            Act::Visit(visit) => {
                let person_id = self.model.population.people[step.person].person_id;
                self.visits.push((person_id, visit.clone()));
            }
            Act::Claim { coupon } => {
                let person_id = self.model.population.people[step.person].person_id;
                coupon_claims::claim(tx, scope, self.coupons[*coupon], person_id).await?;
            }
            Act::Leave { pharmacy, product, quantity } => {
                let left = SetCartLine {
                    person_id: self.model.population.people[step.person].person_id,
                    pharmacy_id: self.pharmacies[*pharmacy],
                    variant_id: self.variants[*product],
                    quantity: *quantity,
                    selected: false,
                };
                carts::set(tx, scope, &left).await?;
            }
            Act::Deliver { pharmacy, product, units } => {
                let receipt = NewMovement {
                    pharmacy_id: self.pharmacies[*pharmacy],
                    variant_id: self.variants[*product],
                    on_hand_change: *units,
                    kind: MovementKind::Receipt,
                    reason: Some("delivery".to_owned()),
                };
                stock::move_by_hand(tx, scope, &receipt).await?;
            }
            Act::Promote(promotion) => {
                campaigns::create(tx, scope, &promotion.campaign(&self.products)).await?;
            }
            Act::Ship => {
                let shipment =
                    Shipment { carrier: Some(CARRIER.to_owned()), tracking_number: None };
                order_states::ship(tx, scope, order_id, &shipment, RECEIVED_AFTER_MICROS).await?;
            }
            Act::Receive => {
                order_states::receive(tx, scope, order_id).await?;
            }
            Act::Complete => {
                let valid = PointsRules::default().valid_micros;
                order_states::step(tx, scope, order_id, valid, &mut Swept::default()).await?;
            }
            Act::Close => {
                order_states::close(tx, scope, order_id).await?;
            }
            Act::Refund { part, cause } => {
                let lines = orders::lines(tx, order_id).await?;
                let line = |number: i64| {
                    let unknown = OperationalError::NotFound { what: "order", id: order_id };
                    lines.iter().find(|line| line.line_number == number).ok_or(unknown)
                };
                let (whole, lines) = match *part {
                    RefundPart::Whole => (true, Vec::new()),
                    RefundPart::Units { line_number, quantity } => {
                        let id = line(line_number)?.order_line_id;
                        (false, vec![NewRefundLine::units(id, quantity)])
                    }
                    RefundPart::Half { line_number } => {
                        let line = line(line_number)?;
                        let half = NewRefundLine {
                            order_line_id: line.order_line_id,
                            quantity: None,
                            amount_fen: Some((line.cash_fen / 2).max(1)),
                        };
                        (false, vec![half])
                    }
                };
                let reason = catalogue::reason(*cause).to_owned();
                let new = NewRefund { reason, cause: *cause, whole, lines };
                refunds::refund(tx, scope, order_id, &new).await?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    async fn end_of_piece(
        &mut self,
        tx: &mut WriteTransaction,
        scope: Scope,
    ) -> Result<(), OperationalError> {
        self.note_visits(tx, scope).await
    }
}

/// Ids of all rows of a list, by name.
async fn named<T>(
    on: &mut Connection,
    list: impl AsyncFn(&mut Connection, Page) -> Result<Vec<T>, OperationalError>,
    name_and_id: fn(T) -> (String, i64),
) -> Result<HashMap<String, i64>, OperationalError> {
    let mut found = HashMap::new();
    let mut page = Page { after_id: 0, limit: Limit::MAX };
    loop {
        let rows = list(on, page).await?;
        let last = rows.is_empty();
        for (name, id) in rows.into_iter().map(name_and_id) {
            page.after_id = page.after_id.max(id);
            found.entry(name).or_insert(id);
        }
        if last {
            return Ok(found);
        }
    }
}
