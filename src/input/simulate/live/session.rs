use std::{collections::BTreeMap, sync::Arc, time::Duration};

use medlake_operational::mall::payment_notifications;
use rand::{RngExt, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Arrival, Client, Refused, Tally,
    people::{Enrolled, World, integer},
};
use crate::{
    clock::Clock,
    input::simulate::{
        DAY_MICROS,
        behaviour::{self, Act, Basket, FollowUp, Pace, RefundPart, Visit},
        catalogue::{self, PRODUCTS},
        home,
        people::Patient,
    },
};

/// The chance that an order is of what was put into the cart before.
const BY_CART: f64 = 0.4;
/// The chance that a payment channel tells of a payment twice.
const TOLD_TWICE: f64 = 0.05;

/// One arrival and all that comes of it.
pub(super) struct Session {
    pub(super) client: Arc<Client>,
    pub(super) world: Arc<World>,
    pub(super) tally: Arc<Tally>,
    /// Secrets of payment channels by their names.
    pub(super) channels: Arc<BTreeMap<String, String>>,
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
        let share_code = world.code(person);
        if let Some(code) = share_code {
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
        let begun = (self.clock)();
        let mut acts = world.shops.model.visit(person, begun, Pace::LIVE, &mut self.random);
        if !acts.iter().all(|(_, act)| world.allows(act)) {
            // They only look.
            acts.retain(|(_, act)| matches!(act, Act::Visit(_)));
        }
        let mut order = Value::Null;
        // Completing is the mall's own to do.
        let acts = acts.iter().filter(|(_, act)| !matches!(act, Act::Complete));
        for (step, (at, act)) in acts.enumerate() {
            let after = Duration::from_micros(u64::try_from(at - begun).unwrap_or(0));
            tokio::time::sleep_until(started + after).await;
            self.shop(world, (person, share_code), act, &format!("{step}"), &mut order).await?;
        }
        Ok(())
    }

    /// Does one thing with the order of this session.
    async fn shop(
        &mut self,
        world: &World,
        (person, share_code): (usize, Option<&str>),
        act: &Act,
        step: &str,
        order: &mut Value,
    ) -> Result<(), Refused> {
        let of_order = |what: &str| format!("/mall/orders/{}/{what}", order["order_id"]);
        match act {
            Act::Place(basket) => {
                *order = self.place(world, person, basket, step).await?;
                Tally::add(&self.tally.orders);
            }
            Act::Pay { method } => {
                self.pay(order, method, step).await?;
                Tally::add(&self.tally.paid);
            }
            Act::Leave { pharmacy, product, quantity } => {
                let line = (*product, *quantity);
                self.put_in_cart(world, person, *pharmacy, line, false, step).await?;
            }
            Act::Visit(visit) => self.look(world, person, visit, share_code, step).await?,
            Act::Claim { coupon } => {
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

    /// Places an order, at times of what is put into the cart first. When the pharmacy has too little of
    /// something, goods come in and it is tried once more.
    async fn place(
        &mut self,
        world: &World,
        person: usize,
        basket: &Basket,
        step: &str,
    ) -> Result<Value, Refused> {
        let mut body = order_body(world, person, basket);
        body["prescription_id"] = self.prescription(world, step, &body, basket).await?;
        let mut path = "/mall/orders";
        if world.has_carts() && self.random.random_bool(BY_CART) {
            for (place, line) in basket.lines.iter().enumerate() {
                let step = format!("{step}-line-{place}");
                self.put_in_cart(world, person, basket.pharmacy, *line, true, &step).await?;
            }
            path = "/mall/carts/checkout";
            body.as_object_mut()
                .map(|fields| (fields.remove("lines"), fields.remove("shipping_fen")));
        }
        match self.post(path, step, &body).await {
            Err(refused) if refused.is_out_of_stock() => {
                let people = world.population().people.len();
                for (product, quantity) in &basket.lines {
                    if !PRODUCTS[*product].is_counted() {
                        continue;
                    }
                    let receipt = json!({
                        "pharmacy_id": world.shops.pharmacies[basket.pharmacy],
                        "variant_id": world.variants[*product],
                        "on_hand_change": catalogue::stock_units(people) + quantity,
                        "kind": "receipt",
                        "reason": "delivery",
                    });
                    let step = format!("{step}-delivery-{product}");
                    self.post("/mall/stock/movements", &step, &receipt).await?;
                }
                self.post(path, &format!("{step}-again"), &body).await
            }
            placed => placed,
        }
    }

    async fn put_in_cart(
        &self,
        world: &World,
        person: usize,
        pharmacy: usize,
        (product, quantity): (usize, i64),
        selected: bool,
        step: &str,
    ) -> Result<(), Refused> {
        let line = json!({
            "person_id": world.population().people[person].person_id,
            "pharmacy_id": world.shops.pharmacies[pharmacy],
            "variant_id": world.variants[product],
            "quantity": quantity,
            "selected": selected,
        });
        self.post("/mall/carts/lines", step, &line).await?;
        Ok(())
    }

    /// Pays: the channel of the method tells of it, at times twice, or it is entered.
    async fn pay(&mut self, order: &Value, method: &str, step: &str) -> Result<(), Refused> {
        let again = self.random.random_bool(TOLD_TWICE);
        let Some(secret) = self.channels.get(method) else {
            let path = format!("/mall/orders/{}/pay", order["order_id"]);
            return self.post(&path, step, &json!({ "method": method })).await.map(drop);
        };
        let body = json!({
            "channel": method,
            "event": "payment_succeeded",
            "order_id": order["order_id"],
            "transaction_id": format!("{}-{step}", self.key),
            "amount_fen": order["payable_fen"],
        });
        let body = body.to_string();
        for _ in 0..=i32::from(again) {
            let sent = (self.clock)() / 1_000_000;
            let signature = payment_notifications::signature(secret, sent, &body);
            self.client.notify("/mall/callbacks/payments", sent, &signature, &body).await?;
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
        share_code: Option<&str>,
        step: &str,
    ) -> Result<(), Refused> {
        let person_id = world.population().people[person].person_id;
        let body = json!({
            "visitor_key": format!("person-{person_id}"),
            "person_id": person_id,
            "channel": visit.channel,
            "campaign_code": visit.campaign,
            "share_code": share_code,
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
        let is_wanted = |patient: &Patient| arrival != Arrival::Reading || patient.kit.is_some();
        let Some((patient, enrolled)) = world.any_patient(is_wanted, &mut self.random) else {
            return Ok(());
        };
        let now = (self.clock)();
        match arrival {
            Arrival::Dose => match enrolled.take_reminder(patient, now) {
                Some(scheduled_at) => self.dose(patient, enrolled, scheduled_at).await?,
                // All that are known were reported.
                None => return Ok(()),
            },
            Arrival::FollowUp => {
                let found = behaviour::follow_up(patient, now, &mut self.random);
                self.follow_up(enrolled.patient_id, &found).await?;
            }
            Arrival::Reading => self.measure(patient, enrolled, now).await?,
            Arrival::Visit => {}
        }
        Tally::add(&self.tally.health_events);
        Ok(())
    }

    async fn dose(
        &mut self,
        patient: &Patient,
        enrolled: &Enrolled,
        scheduled_at: i64,
    ) -> Result<(), Refused> {
        let plan_id = enrolled.plan_id;
        let dose = behaviour::dose(patient, scheduled_at, true, &mut self.random);
        let Act::Dose { taken_at, .. } = dose else { return Ok(()) };
        match (patient.reminded, taken_at) {
            (false, _) => {
                let body = json!({
                    "plan_id": plan_id,
                    "scheduled_at": scheduled_at,
                    "taken_at": taken_at,
                });
                self.post("/chronic-care/dose-events", "dose", &body).await?;
            }
            (true, Some(_)) => {
                let path = format!("/chronic-care/medication-plans/{plan_id}/confirmations");
                self.post(&path, "dose", &json!({ "taken_at": taken_at })).await?;
            }
            // Nobody confirms it: its slot passes.
            (true, None) => {}
        }
        Ok(())
    }

    /// A follow-up; in a programme it answers the form of its step.
    async fn follow_up(&self, patient_id: i64, found: &FollowUp) -> Result<(), Refused> {
        let programmes = format!("/chronic-care/patients/{patient_id}/programmes");
        let programmes = self.client.get(&programmes).await?;
        let running = |programme: &&Value| programme["ended_at"].is_null();
        let programme = programmes["items"].as_array().and_then(|all| all.iter().find(running));
        let programme = programme.unwrap_or(&Value::Null);
        let answers = programme["step"].as_str().map(|step| found.answers(step));
        let body = json!({
            "patient_id": patient_id,
            "method": found.method,
            "systolic_mmhg": found.systolic_mmhg,
            "diastolic_mmhg": found.diastolic_mmhg,
            "fasting_glucose_umol_per_l": found.fasting_glucose_umol_per_l,
            "on_target": found.on_target,
            "programme_id": programme["programme_id"],
            "answers": answers.unwrap_or_default(),
        });
        self.post("/chronic-care/follow-ups", "follow-up", &body).await?;
        Ok(())
    }

    /// A reading, sent by the device or entered.
    async fn measure(
        &mut self,
        patient: &Patient,
        enrolled: &Enrolled,
        now: i64,
    ) -> Result<(), Refused> {
        let (_, act) = home::measure(patient, now, &mut self.random);
        let Act::Measure(reading) = act else { return Ok(()) };
        let device = enrolled.devices.iter().find(|(kind, _)| *kind == reading.device());
        let Some((sent, (_, device_id))) = reading.sent.as_ref().zip(device) else {
            let body = json!({
                "patient_id": enrolled.patient_id,
                "kind": reading.kind,
                "measured_at": reading.measured_at,
                "systolic_mmhg": reading.systolic_mmhg,
                "diastolic_mmhg": reading.diastolic_mmhg,
                "pulse_per_min": reading.pulse_per_min,
                "glucose_umol_per_l": reading.glucose_umol_per_l,
            });
            self.post("/chronic-care/readings", "reading", &body).await?;
            return Ok(());
        };
        let path = format!("/chronic-care/devices/{device_id}/readings");
        let body = json!(reading.upload(sent, now));
        for time in 0..=i32::from(sent.again) {
            self.post(&path, &format!("reading-{time}"), &body).await?;
        }
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
    json!({
        "person_id": world.population().people[person].person_id,
        "pharmacy_id": world.shops.pharmacies[basket.pharmacy],
        "channel": basket.channel,
        "coupon_id": basket.coupon.map(|coupon| world.shops.coupons[coupon]),
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
