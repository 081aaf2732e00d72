use std::{sync::Arc, time::Duration};

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use rand_distr::{Distribution, Exp1, Geometric};
use serde_json::{Value, json};

use super::{
    Arrival, Client, HOUR_MICROS, Refused, Tally,
    patients::{Condition, Patient, around, choose},
    world::{World, integer},
};
use crate::clock::Clock;

const LINES_MAX: u64 = 20;
const CHANNELS: [(&str, u32); 4] = [("app", 45), ("mini_program", 35), ("h5", 12), ("pharmacy", 8)];
const METHODS: [(&str, u32); 3] = [("wechat_pay", 60), ("alipay", 32), ("bank_card", 8)];
const REASONS: [&str; 3] = ["quality", "wrong item", "changed mind"];

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
            Arrival::Order => self.order(&world).await,
            Arrival::Dose => self.dose(&world).await,
            Arrival::Reading => self.reading(&world).await,
            Arrival::FollowUp => self.follow_up(&world).await,
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

    async fn order(&mut self, world: &World) -> Result<(), Refused> {
        let (person_id, patient) = world.buyer(&mut self.random);
        if let Some(distributor_id) = world.promoter(person_id) {
            // An earlier run may have bound them: then it is refused.
            let body = json!({ "person_id": person_id, "distributor_id": distributor_id });
            let bound = self.post("/distribution/bindings", "bind", &body).await;
            match bound {
                Err(refused) if !refused.is_conflict() && !refused.is_not_found() => {
                    return Err(refused);
                }
                _ => world.note_bound(person_id),
            }
        }
        let placed = self.place(world, person_id, patient).await?;
        Tally::add(&self.tally.orders);
        let order_id = number(&placed, "order_id")?;
        match self.random.random_range(0..100) {
            0..88 => {
                self.pause(2.0).await;
                let body = json!({ "method": self.choose(&METHODS) });
                self.post(&format!("/mall/orders/{order_id}/pay"), "pay", &body).await?;
                Tally::add(&self.tally.paid);
                if self.random.random_bool(0.06) {
                    self.pause(8.0).await;
                    self.refund(order_id, &placed).await?;
                }
            }
            88..95 => {
                self.pause(5.0).await;
                self.post(&format!("/mall/orders/{order_id}/close"), "close", &json!({})).await?;
            }
            _ => {}
        }
        Ok(())
    }

    async fn place(
        &mut self,
        world: &World,
        person_id: i64,
        patient: Option<&Patient>,
    ) -> Result<Value, Refused> {
        let line_count = (1 + self.geometric(0.45)).min(LINES_MAX);
        let plan = patient.and_then(|p| p.plan.as_ref());
        let refill = plan
            .and_then(|plan| world.medicine(&plan.drug_code))
            .filter(|_| self.random.random_bool(0.7));
        let mut products: Vec<i64> = refill.into_iter().collect();
        for _ in 0..line_count {
            let product_id = world.product(&mut self.random);
            if !products.contains(&product_id) {
                products.push(product_id);
            }
        }
        let lines: Vec<Value> = products
            .into_iter()
            .map(|product_id| {
                json!({ "product_id": product_id, "quantity": 1 + self.geometric(0.75) })
            })
            .collect();
        let shipping_fen = if self.random.random_bool(0.5) { 600 } else { 0 };
        let mut body = json!({
            "person_id": person_id,
            "pharmacy_id": world.pharmacy(&mut self.random),
            "channel": self.choose(&CHANNELS),
            "shipping_fen": shipping_fen,
            "lines": lines,
        });
        if self.random.random_bool(0.33)
            && let Some(coupon_id) = world.coupons.choose(&mut self.random)
        {
            body["coupon_id"] = json!(coupon_id);
            match self.post("/mall/orders", "order-coupon", &body).await {
                // The basket is not big enough for it, or holds nothing it is for.
                Err(refused) if refused.is_conflict() => body["coupon_id"] = Value::Null,
                answered => return answered,
            }
        }
        self.post("/mall/orders", "order", &body).await
    }

    /// Some units of one line.
    async fn refund(&mut self, order_id: i64, placed: &Value) -> Result<(), Refused> {
        let lines = placed["lines"].as_array().map_or(&[][..], Vec::as_slice);
        let Some(line) = lines.choose(&mut self.random) else { return Ok(()) };
        let quantity = self.random.random_range(1..=number(line, "quantity")?.max(1));
        let body = json!({
            "reason": REASONS.choose(&mut self.random),
            "lines": [{ "order_line_id": number(line, "order_line_id")?, "quantity": quantity }],
        });
        self.post(&format!("/mall/orders/{order_id}/refunds"), "refund", &body).await?;
        Tally::add(&self.tally.refunds);
        Ok(())
    }

    /// What became of a reminder: taken on time, late or not. There may be none to report.
    async fn dose(&mut self, world: &World) -> Result<(), Refused> {
        let Some(patient) = world.patients.choose(&mut self.random) else { return Ok(()) };
        let Some(plan) = &patient.plan else { return Ok(()) };
        let Some(scheduled_at) = plan.take_reminder((self.clock)()) else { return Ok(()) };
        let late = self.random.random_range(0..HOUR_MICROS);
        let taken_at = if self.random.random_bool(patient.diligence) {
            Some(scheduled_at + late / 2)
        } else if self.random.random_bool(0.4) {
            Some(scheduled_at + HOUR_MICROS + late)
        } else {
            None
        };
        let body = json!({
            "plan_id": plan.plan_id,
            "scheduled_at": scheduled_at,
            "taken_at": taken_at,
        });
        self.health("/chronic-care/dose-events", "dose", &body).await
    }

    async fn reading(&mut self, world: &World) -> Result<(), Refused> {
        let Some(patient) = world.patients.choose(&mut self.random) else { return Ok(()) };
        let fault = self.random.random_bool(0.01);
        let body = if patient.condition == Condition::Diabetes && self.random.random_bool(0.7) {
            // A strip that has gone off shows next to nothing.
            let glucose = if fault { 300 } else { patient.glucose(&mut self.random) };
            json!({
                "patient_id": patient.patient_id,
                "kind": "glucose",
                "glucose_umol_per_l": glucose,
            })
        } else {
            let (systolic, diastolic) = patient.pressure((self.clock)(), &mut self.random);
            // A cuff that was put on wrongly gives the pressures the wrong way round.
            let (systolic, diastolic) =
                if fault { (diastolic, systolic) } else { (systolic, diastolic) };
            json!({
                "patient_id": patient.patient_id,
                "kind": "blood_pressure",
                "systolic_mmhg": systolic,
                "diastolic_mmhg": diastolic,
                "pulse_per_min": around(74.0, 8.0, &mut self.random).clamp(40, 180),
            })
        };
        self.health("/chronic-care/readings", "reading", &body).await
    }

    async fn follow_up(&mut self, world: &World) -> Result<(), Refused> {
        let Some(patient) = world.patients.choose(&mut self.random) else { return Ok(()) };
        let body = patient.follow_up((self.clock)(), &mut self.random);
        self.health("/chronic-care/follow-ups", "follow-up", &body).await
    }

    async fn health(&mut self, path: &str, step: &str, body: &Value) -> Result<(), Refused> {
        self.post(path, step, body).await?;
        Tally::add(&self.tally.health_events);
        Ok(())
    }

    fn geometric(&mut self, chance: f64) -> u64 {
        Geometric::new(chance).map_or(0, |law| law.sample(&mut self.random))
    }

    fn choose(&mut self, weighted: &[(&'static str, u32)]) -> &'static str {
        choose(weighted, &mut self.random)
    }

    /// Waits for an exponential time of this mean.
    async fn pause(&mut self, mean_seconds: f64) {
        let drawn: f64 = Exp1.sample(&mut self.random);
        tokio::time::sleep(Duration::from_secs_f64(drawn * mean_seconds)).await;
    }

    async fn post(&self, path: &str, step: &str, body: &Value) -> Result<Value, Refused> {
        self.client.post(path, &format!("{}-{step}", self.key), body).await
    }
}

/// An integer of an answer, which the services always give.
fn number(row: &Value, field: &str) -> Result<i64, Refused> {
    integer(row, field).map_err(|error| Refused {
        status: 200,
        code: "unreadable".to_owned(),
        message: error.to_string(),
    })
}
