//! What people do, as acts at times: pure draws, carried out elsewhere. The order of the draws is
//! part of a history's identity: it must not depend on what the services answer.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use medlake_operational::{
    chronic_care::{follow_ups::Method, patients::Condition},
    mall::{orders::Channel, refunds::RefundCause},
};
use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

use super::{
    DAY_MICROS, HOUR_MICROS,
    catalogue::{self, COUPONS, PHARMACIES},
    home::Reading,
    law::{self, Weighted},
    people::{Habit, Patient, Person, Population},
    promotions::Promotion,
};

/// The chance that a visit to the mall ends with an order.
pub(super) const ORDERS: f64 = 0.2;
/// The chance that a visit without one leaves something in the cart.
pub(super) const LEFT_IN_CART: f64 = 0.1;
/// The chance that a visit was brought by the promotion that is on.
pub(super) const BROUGHT_BY_CAMPAIGN: f64 = 0.3;
const LINES_MAX: u64 = 20;
/// After which time an order that is not paid is given up, in seconds.
const UNPAID_SECONDS: f64 = 1_800.0;
/// The longest return window of a line.
const RETURNS_DAYS: i64 = 7;

const CHANNELS: [(Channel, u32); 4] =
    [(Channel::App, 45), (Channel::MiniProgram, 35), (Channel::H5, 12), (Channel::Pharmacy, 8)];
pub(super) const PAYMENT_METHODS: [(&str, u32); 3] =
    [("wechat_pay", 60), ("alipay", 32), ("bank_card", 8)];
const FOLLOW_UP_METHODS: [(Method, u32); 3] =
    [(Method::Visit, 40), (Method::Phone, 35), (Method::Online, 25)];

/// How long things take on average, in seconds; each time is exponential.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// From one page to the next.
    pub(super) page: f64,
    /// From an order to its payment.
    pub(super) pay: f64,
    /// From an order to giving it up.
    pub(super) close: f64,
    /// From the payment to the shipment.
    pub(super) ship: f64,
    /// From the shipment to the receipt.
    pub(super) receive: f64,
    /// From the receipt to a refund.
    pub(super) refund: f64,
}

impl Pace {
    /// As people take their time.
    pub(super) const REAL: Self = Self {
        page: 40.0,
        pay: 90.0,
        close: 600.0,
        ship: 10.0 * 3600.0,
        receive: 36.0 * 3600.0,
        refund: 48.0 * 3600.0,
    };
    /// For somebody who watches.
    pub(super) const LIVE: Self =
        Self { page: 0.2, pay: 2.0, close: 5.0, ship: 10.0, receive: 20.0, refund: 10.0 };
}

/// Something somebody does.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Act {
    /// Becomes this distributor.
    Join {
        member: usize,
    },
    /// Follows the link of a distributor, who binds them if nobody has.
    Follow {
        member: usize,
    },
    /// Comes to the mall and looks at pages.
    Visit(Visit),
    /// Leaves something in the cart.
    Leave {
        pharmacy: usize,
        product: usize,
        quantity: i64,
    },
    /// Goods come in at a pharmacy.
    Deliver {
        pharmacy: usize,
        product: usize,
        units: i64,
    },
    /// The mall makes an offer.
    Promote(Promotion),
    /// Takes a coupon that has to be claimed.
    Claim {
        coupon: usize,
    },
    /// Places the order.
    Place(Basket),
    /// Pays the order.
    Pay {
        method: &'static str,
    },
    /// Gives the order up.
    Close,
    /// Sends the order off.
    Ship,
    /// Says that the order has come.
    Receive,
    /// Does what is due of the order by then: it is completed.
    Complete,
    /// Gets money back for the order.
    Refund {
        part: RefundPart,
        cause: RefundCause,
    },
    /// Is enrolled as a patient, with a plan from this day on.
    Enrol {
        starts_on: NaiveDate,
    },
    /// Gets medicine from a hospital.
    Dispense {
        on: NaiveDate,
        days_supply: i64,
    },
    /// Says what became of a reminder.
    Dose {
        scheduled_at: i64,
        taken_at: Option<i64>,
    },
    Measure(Reading),
    FollowUp(FollowUp),
}

/// An act at a time, of an order if it is about one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    /// Microseconds since 1970 (UTC).
    pub(super) at: i64,
    /// Place of the person.
    pub(super) person: usize,
    /// Number of the order, from 1; 0 when it is about none.
    pub(super) order: i64,
    pub(super) act: Act,
}

/// What is given back of an order; lines are counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RefundPart {
    Whole,
    Units {
        line_number: i64,
        quantity: i64,
    },
    /// Half of what was paid for a line.
    Half {
        line_number: i64,
    },
}

/// A visit with the pages that were seen, the first of them the one it began with.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Visit {
    pub(super) channel: Channel,
    /// The campaign that brought it.
    pub(super) campaign: Option<&'static str>,
    /// When, and the product, on a page of one.
    pub(super) pages: Vec<(i64, Option<usize>)>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Basket {
    pub(super) pharmacy: usize,
    pub(super) channel: Channel,
    /// Products and how many units of each.
    pub(super) lines: Vec<(usize, i64)>,
    pub(super) coupon: Option<usize>,
    pub(super) shipping_fen: i64,
    /// The distributor the buyer is bound to; a service that is asked over HTTP knows by itself.
    pub(super) promoter: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct FollowUp {
    pub(super) method: Method,
    pub(super) systolic_mmhg: i64,
    pub(super) diastolic_mmhg: i64,
    pub(super) fasting_glucose_umol_per_l: Option<i64>,
    pub(super) on_target: Option<bool>,
    /// How they take their medicine, in the words of the forms.
    pub(super) adherence: &'static str,
}

/// The people and what they choose among.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) seed: u64,
    pub(super) population: Population,
    shops: Weighted,
    shelf: Weighted,
}

impl Model {
    pub(super) fn new(seed: u64, people: usize) -> Self {
        // The best sellers, as the seed spreads them over the kinds, by Zipf's law.
        let mut weights = vec![0.0; catalogue::PRODUCTS.len()];
        for (rank, product) in (1_u32..).zip(catalogue::by_popularity(seed)) {
            weights[product] = law::zipf(rank, 0.8);
        }
        Self {
            seed,
            population: Population::new(seed, people),
            shops: Weighted::new((1..=PHARMACIES).map(|rank| law::zipf(rank, 0.6))),
            shelf: Weighted::new(weights),
        }
    }

    /// A visit to the mall and, at times, what is bought.
    pub(super) fn visit(
        &self,
        person: usize,
        at: i64,
        pace: Pace,
        random: &mut StdRng,
    ) -> Vec<(i64, Act)> {
        let mut pages = vec![(at, None)];
        let mut last = at;
        for _ in 0..law::geometric(0.4, random) {
            last += micros(law::exponential(pace.page, random));
            let product = self.shelf.draw(random);
            pages.push((last, random.random_bool(0.8).then_some(product)));
        }
        let channel = choose(&CHANNELS, random);
        let brought = random.random_bool(BROUGHT_BY_CAMPAIGN);
        let campaign = Promotion::at(at).filter(|_| brought).map(Promotion::code);
        let mut acts = vec![(at, Act::Visit(Visit { channel, campaign, pages }))];
        if random.random_bool(ORDERS) {
            acts.extend(self.purchase(person, last, pace, random));
        } else if random.random_bool(LEFT_IN_CART) {
            let (pharmacy, product) = (self.shops.draw(random), self.shelf.draw(random));
            acts.push((last, Act::Leave { pharmacy, product, quantity: quantity(random) }));
        }
        acts
    }

    /// An order and what comes of it.
    pub(super) fn purchase(
        &self,
        person: usize,
        at: i64,
        pace: Pace,
        random: &mut StdRng,
    ) -> Vec<(i64, Act)> {
        let traits = &self.population.people[person];
        let line_count = (1 + law::geometric(0.45, random)).min(LINES_MAX);
        let mut lines: Vec<(usize, i64)> = Vec::new();
        for _ in 0..line_count {
            let product = self.shelf.draw(random);
            let quantity = quantity(random);
            if !lines.iter().any(|(there, _)| *there == product) {
                lines.push((product, quantity));
            }
        }
        let basket = self.basket(traits, lines, at, random);
        let mut acts = placed(&basket, at);
        match random.random_range(0..100) {
            0..88 => acts.extend(self.paid(&basket, at, pace, random)),
            88..95 => {
                acts.push((at + micros(law::exponential(pace.close, random)), Act::Close));
            }
            // Forgotten, until the mall gives it up.
            _ => acts.push((at + micros(UNPAID_SECONDS), Act::Close)),
        }
        acts
    }

    /// A patient's refill at a pharmacy of the mall, always paid.
    pub(super) fn refill(
        &self,
        person: usize,
        at: i64,
        pace: Pace,
        random: &mut StdRng,
    ) -> Vec<(i64, Act)> {
        let traits = &self.population.people[person];
        let Some(patient) = &traits.patient else { return Vec::new() };
        let (packs, _) = patient.supply();
        let mut lines = vec![(patient.medicine, packs)];
        let more = self.shelf.draw(random);
        if random.random_bool(0.3) && more != patient.medicine {
            lines.push((more, quantity(random)));
        }
        let basket = self.basket(traits, lines, at, random);
        let mut acts = placed(&basket, at);
        acts.extend(self.paid(&basket, at, pace, random));
        acts
    }

    fn basket(
        &self,
        traits: &Person,
        lines: Vec<(usize, i64)>,
        at: i64,
        random: &mut StdRng,
    ) -> Basket {
        let coupon = random
            .random_bool(traits.thrift)
            .then(|| random.random_range(0..COUPONS.len()))
            // What a promotion takes off may leave too little for a coupon.
            .filter(|coupon| COUPONS[*coupon].applies(&lines) && Promotion::at(at).is_none());
        Basket {
            pharmacy: self.shops.draw(random),
            channel: choose(&CHANNELS, random),
            lines,
            coupon,
            shipping_fen: if random.random_bool(0.5) { 600 } else { 0 },
            promoter: None,
        }
    }

    #[expect(clippy::unused_self, reason = "what follows a payment is the model's to say")]
    fn paid(
        &self,
        basket: &Basket,
        placed_at: i64,
        pace: Pace,
        random: &mut StdRng,
    ) -> Vec<(i64, Act)> {
        let at = placed_at + micros(law::exponential(pace.pay, random));
        let mut acts = vec![(at, Act::Pay { method: choose(&PAYMENT_METHODS, random) })];
        let refunded = random.random_bool(0.06);
        if refunded && random.random_bool(0.3) {
            // Before it is sent off: then there is nothing more.
            let at = at + micros(law::exponential(pace.ship / 4.0, random));
            let (part, cause) = (RefundPart::Whole, RefundCause::NoReason);
            acts.push((at, Act::Refund { part, cause }));
            return acts;
        }
        let shipped_at = at + micros(law::exponential(pace.ship, random));
        let received_at = shipped_at + micros(law::exponential(pace.receive, random));
        acts.extend([(shipped_at, Act::Ship), (received_at, Act::Receive)]);
        if refunded {
            let line = random.random_range(0..basket.lines.len());
            let quantity = random.random_range(1..=basket.lines[line].1);
            let line_number = i64::try_from(line).unwrap_or(0) + 1;
            let part = match random.random_range(0..7) {
                0..5 => RefundPart::Units { line_number, quantity },
                _ => RefundPart::Half { line_number },
            };
            let cause =
                if random.random_bool(0.7) { RefundCause::Quality } else { RefundCause::WrongItem };
            let after =
                micros(law::exponential(pace.refund, random)).min(RETURNS_DAYS * DAY_MICROS);
            acts.push((received_at + after, Act::Refund { part, cause }));
        }
        acts.push((received_at + RETURNS_DAYS * DAY_MICROS + 1, Act::Complete));
        acts
    }
}

/// The order, and before it the claim of its coupon if it is one that is claimed.
fn placed(basket: &Basket, at: i64) -> Vec<(i64, Act)> {
    let mut acts = vec![(at, Act::Place(basket.clone()))];
    if let Some(coupon) = basket.coupon.filter(|coupon| COUPONS[*coupon].claimed) {
        acts.insert(0, (at, Act::Claim { coupon }));
    }
    acts
}

fn quantity(random: &mut StdRng) -> i64 {
    1 + i64::try_from(law::geometric(0.75, random)).unwrap_or(0).min(50)
}

/// What became of a dose that was to be taken at a time, with or without medicine at hand.
pub(super) fn dose(
    patient: &Patient,
    scheduled_at: i64,
    at_hand: bool,
    random: &mut StdRng,
) -> Act {
    let late = random.random_range(0..HOUR_MICROS);
    let on_time = random.random_bool(patient.diligence);
    let still = random.random_bool(0.4);
    let taken_at = match (at_hand, on_time, still) {
        (true, true, _) => Some(scheduled_at + late / 2),
        (true, false, true) => Some(scheduled_at + HOUR_MICROS + late),
        _ => None,
    };
    Act::Dose { scheduled_at, taken_at }
}

/// What a follow-up finds.
pub(super) fn follow_up(patient: &Patient, at: i64, random: &mut StdRng) -> FollowUp {
    let (systolic_mmhg, diastolic_mmhg) = patient.pressure(at, random);
    let glucose = patient.glucose(random);
    FollowUp {
        method: choose(&FOLLOW_UP_METHODS, random),
        systolic_mmhg,
        diastolic_mmhg,
        fasting_glucose_umol_per_l: (patient.condition == Condition::Diabetes).then_some(glucose),
        // No value says it of other conditions; the doctor does.
        on_target: (patient.condition == Condition::Other).then(|| random.random_bool(0.65)),
        adherence: match patient.habit {
            Habit::Steady | Habit::Early => "规律",
            Habit::Late | Habit::Gaps | Habit::Stops => "间断",
        },
    }
}

impl FollowUp {
    /// Whether a value is out of control, which calls for the next one within two weeks.
    pub(super) fn is_out_of_control(&self, condition: Condition) -> bool {
        match condition {
            Condition::Hypertension => self.systolic_mmhg >= 140 || self.diastolic_mmhg >= 90,
            Condition::Diabetes => self.fasting_glucose_umol_per_l >= Some(7_000),
            Condition::Other => false,
        }
    }

    /// Answers to the form of a step of a programme, beside its values; the first one of high blood
    /// pressure does not ask for how medicine is taken.
    pub(super) fn answers(&self, step: &str) -> BTreeMap<String, Value> {
        let adherence =
            (step != "assessment").then(|| ("adherence".to_owned(), json!(self.adherence)));
        adherence.into_iter().collect()
    }
}

fn choose<T: Copy>(weighted: &[(T, u32)], random: &mut StdRng) -> T {
    let chosen = weighted.choose_weighted(random, |(_, weight)| *weight);
    chosen.map_or(weighted[0].0, |(choice, _)| *choice)
}

#[expect(clippy::cast_possible_truncation, reason = "times of less than a year")]
pub(super) fn micros(seconds: f64) -> i64 {
    (seconds * 1e6) as i64
}
