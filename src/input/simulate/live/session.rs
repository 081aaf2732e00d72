use std::{sync::Arc, time::Duration};

use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Arrival, Client, Refused, Tally,
    people::{World, integer},
};
use crate::{
    clock::Clock,
    input::simulate::{
        DAY_MICROS,
        behaviour::{self, Act, Basket, Pace, RefundPart, Visit},
        catalogue,
    },
};

/// One arrival and all that comes of it.
pub(super) struct Session {
    pub(super) client: Arc<Client>,
    pub(super) world: Arc<World>,
    pub(super) tally: Arc<Tally>,
    pub(super) clock: Clock,
    pub(super) random: StdRng,
    /// Unique to the session; its requests are told apart by what follows it.
    pub(super) key: String,
}

impl Session {
    pub(super) async fn run(mut self, arrival: Arrival) {
        let world = Arc::clone(&self.world);
        let ended = match arrival {
            Arrival::Visit => self.visit(&world).await,
            Arrival::Dose | Arrival::Reading | Arrival::FollowUp => {
                self.health(&world, arrival).await
            }
        };
        match ended {
            Ok(()) => {}
            // The dose was recorded before, the order was closed meanwhile: people do that.
            Err(refused) if refused.is_conflict() => Tally::add(&self.tally.refused),
            Err(refused) => {
                Tally::add(&self.tally.refused);
                tracing::warn!(?arrival, error = %refused, "a simulated request was refused");
            }
        }
    }

    async fn visit(&mut self, world: &World) -> Result<(), Refused> {
        let Some(person) = world.visitor(&mut self.random) else { return Ok(()) };
        Tally::add(&self.tally.visits);
        if let Some(code) = world.code(person) {
            // Whoever is bound already stays so; that they came is noted.
            let person_id = world.population().people[person].person_id;
            let body = json!({ "code": code, "person_id": person_id });
            match self.post("/distribution/touches", "follow", &body).await {
                Err(refused) if !refused.is_conflict() && !refused.is_not_found() => {
                    return Err(refused);
                }
                _ => world.note_bound(person),
            }
        }
        let started = Instant::now();
        let acts = world.shops.model.visit(person, 0, Pace::LIVE, &mut self.random);
        let mut order = Value::Null;
        // Completing is the mall's own to do.
        let acts = acts.iter().filter(|(_, act)| !matches!(act, Act::Complete));
        for (step, (after, act)) in acts.enumerate() {
            let after = Duration::from_micros(u64::try_from(*after).unwrap_or(0));
            tokio::time::sleep_until(started + after).await;
            self.shop(world, person, act, &format!("{step}"), &mut order).await?;
        }
        Ok(())
    }

    /// Does one thing with the order of this session.
    async fn shop(
        &self,
        world: &World,
        person: usize,
        act: &Act,
        step: &str,
        order: &mut Value,
    ) -> Result<(), Refused> {
        let of_order = |what: &str| format!("/mall/orders/{}/{what}", order["order_id"]);
        match act {
            Act::Place(basket) => {
                let mut body = order_body(world, person, basket);
                body["prescription_id"] = self.prescription(world, step, &body, basket).await?;
                *order = self.post("/mall/orders", step, &body).await?;
                Tally::add(&self.tally.orders);
            }
            Act::Pay { method } => {
                self.post(&of_order("pay"), step, &json!({ "method": method })).await?;
                Tally::add(&self.tally.paid);
            }
            Act::Visit(visit) => self.look(world, person, visit, step).await?,
            Act::Claim { coupon } if world.takes(*coupon) => {
                let person_id = world.population().people[person].person_id;
                let path = format!("/mall/coupons/{}/claims", world.shops.coupons[*coupon]);
                self.post(&path, step, &json!({ "person_id": person_id })).await?;
            }
            Act::Ship => {
                let body = json!({ "carrier": "simulated carrier" });
                self.post(&of_order("ship"), step, &body).await?;
            }
            Act::Receive => {
                self.post(&of_order("receive"), step, &json!({})).await?;
            }
            Act::Close => {
                self.post(&of_order("close"), step, &json!({})).await?;
            }
            Act::Refund { part, cause } => {
                let line = |number: i64| {
                    let place = usize::try_from(number - 1).unwrap_or(0);
                    (&order["lines"][place]["order_line_id"], &order["lines"][place]["cash_fen"])
                };
                let mut body = json!({ "reason": catalogue::reason(*cause), "cause": cause });
                match *part {
                    RefundPart::Whole => body["whole"] = json!(true),
                    RefundPart::Units { line_number, quantity } => {
                        let (id, _) = line(line_number);
                        body["lines"] = json!([{ "order_line_id": id, "quantity": quantity }]);
                    }
                    RefundPart::Half { line_number } => {
                        let (id, cash) = line(line_number);
                        let half = (cash.as_i64().unwrap_or(0) / 2).max(1);
                        body["lines"] = json!([{ "order_line_id": id, "amount_fen": half }]);
                    }
                }
                self.post(&of_order("refunds"), step, &body).await?;
                Tally::add(&self.tally.refunds);
            }
            _ => {}
        }
        Ok(())
    }

    /// The prescription of what is sold on one only, if there is any.
    async fn prescription(
        &self,
        world: &World,
        step: &str,
        order: &Value,
        basket: &Basket,
    ) -> Result<Value, Refused> {
        let items: Vec<Value> = catalogue::prescribed(&basket.lines)
            .into_iter()
            .map(|(product, quantity)| {
                json!({ "product_id": world.shops.products[product], "quantity": quantity })
            })
            .collect();
        if items.is_empty() {
            return Ok(Value::Null);
        }
        let body = json!({
            "person_id": order["person_id"],
            "doctor_reference": "doctor",
            "signature_reference": format!("{}-{step}", self.key),
            "valid_until": (self.clock)() + DAY_MICROS,
            "items": items,
        });
        let step = format!("{step}-prescription");
        let issued = self.post("/mall/prescriptions", &step, &body).await?;
        let review = format!("/mall/prescriptions/{}/review", issued["prescription_id"]);
        let body = json!({ "reviewed_by": "pharmacist", "approve": true });
        self.post(&review, &format!("{step}-review"), &body).await?;
        Ok(issued["prescription_id"].clone())
    }

    /// A visit with its pages, at the pace they are seen.
    async fn look(
        &self,
        world: &World,
        person: usize,
        visit: &Visit,
        step: &str,
    ) -> Result<(), Refused> {
        let person_id = world.population().people[person].person_id;
        let body = json!({
            "visitor_key": format!("person-{person_id}"),
            "person_id": person_id,
            "channel": visit.channel,
        });
        let made = self.post("/mall/visits", step, &body).await?;
        let path = format!("/mall/visits/{}/page-views", number(&made, "visit_id")?);
        for (place, (_, product)) in visit.pages.iter().enumerate() {
            let body = match (place, product) {
                (0, _) => json!({ "page": "home" }),
                (_, None) => json!({ "page": "list" }),
                (_, Some(product)) => {
                    json!({ "page": "product", "product_id": world.shops.products[*product] })
                }
            };
            self.post(&path, &format!("{step}-page-{place}"), &body).await?;
        }
        Ok(())
    }

    async fn health(&mut self, world: &World, arrival: Arrival) -> Result<(), Refused> {
        let Some((patient, enrolled)) = world.any_patient(&mut self.random) else {
            return Ok(());
        };
        let (patient_id, now) = (enrolled.patient_id, (self.clock)());
        let random = &mut self.random;
        let act = match arrival {
            Arrival::Dose => match enrolled.take_reminder(patient, now) {
                Some(scheduled_at) => behaviour::dose(patient, scheduled_at, true, random),
                // All that are known were reported.
                None => return Ok(()),
            },
            Arrival::FollowUp => behaviour::follow_up(patient, now, random),
            Arrival::Reading | Arrival::Visit => behaviour::measure(patient, now, random),
        };
        let (path, body) = match act {
            Act::Dose { scheduled_at, taken_at } => (
                "/chronic-care/dose-events",
                json!({
                    "plan_id": enrolled.plan_id,
                    "scheduled_at": scheduled_at,
                    "taken_at": taken_at,
                }),
            ),
            Act::FollowUp(found) => (
                "/chronic-care/follow-ups",
                json!({
                    "patient_id": patient_id,
                    "method": found.method,
                    "systolic_mmhg": found.systolic_mmhg,
                    "diastolic_mmhg": found.diastolic_mmhg,
                    "fasting_glucose_umol_per_l": found.fasting_glucose_umol_per_l,
                    "on_target": found.on_target,
                }),
            ),
            Act::Measure(reading) => (
                "/chronic-care/readings",
                json!({
                    "patient_id": patient_id,
                    "kind": reading.kind,
                    "systolic_mmhg": reading.systolic_mmhg,
                    "diastolic_mmhg": reading.diastolic_mmhg,
                    "pulse_per_min": reading.pulse_per_min,
                    "glucose_umol_per_l": reading.glucose_umol_per_l,
                }),
            ),
            _ => return Ok(()),
        };
        self.post(path, "health", &body).await?;
        Tally::add(&self.tally.health_events);
        Ok(())
    }

    async fn post(&self, path: &str, step: &str, body: &Value) -> Result<Value, Refused> {
        self.client.post(path, &format!("{}-{step}", self.key), body).await
    }
}

fn order_body(world: &World, person: usize, basket: &Basket) -> Value {
    let lines: Vec<Value> = basket
        .lines
        .iter()
        .map(|(product, quantity)| {
            json!({ "product_id": world.shops.products[*product], "quantity": quantity })
        })
        .collect();
    let coupon = basket.coupon.filter(|coupon| world.takes(*coupon));
    json!({
        "person_id": world.population().people[person].person_id,
        "pharmacy_id": world.shops.pharmacies[basket.pharmacy],
        "channel": basket.channel,
        "coupon_id": coupon.map(|coupon| world.shops.coupons[coupon]),
        "shipping_fen": basket.shipping_fen,
        "lines": lines,
    })
}

/// An integer of an answer, which the services always give.
fn number(row: &Value, field: &str) -> Result<i64, Refused> {
    integer(row, field).map_err(|error| Refused {
        status: 200,
        code: "unreadable".to_owned(),
        message: error.to_string(),
    })
}
