use std::collections::{BTreeMap, BTreeSet};

use medlake_transforms::pdc::{Carry, Fill, Window, measure};

use super::*;
use crate::input::simulate::{law::tests::fits, people::Habit};

/// 2026-05-25, 00:00 in Asia/Shanghai.
const FROM: i64 = 1_779_638_400_000_000;

fn history(seed: u64, people: usize, days: i64) -> (Arc<Model>, Vec<Step>) {
    let model = Arc::new(Model::new(seed, people));
    let until = FROM + days * DAY_MICROS + 13 * HOUR_MICROS;
    let mut steps = Vec::new();
    let mut from = FROM;
    for chunk in History::new(Arc::clone(&model), FROM, until) {
        assert!(chunk.steps.iter().all(|step| (from..chunk.until).contains(&step.at)));
        from = chunk.until;
        steps.extend(chunk.steps);
    }
    assert_eq!(from, until);
    (model, steps)
}

#[test]
fn a_history_is_in_order_and_follows_from_the_seed() {
    let (_, steps) = history(7, 400, 60);
    assert!(steps.is_sorted_by_key(|step| step.at));
    assert_eq!(steps, history(7, 400, 60).1);
    assert_ne!(steps, history(8, 400, 60).1);
    // Nobody does anything with an order before it is placed, or as a patient before they are one.
    let (mut placed, mut enrolled, mut members) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let (mut doses, mut twice) = (BTreeSet::new(), 0);
    // Units of counted products by pharmacy and product: what came in, less what was shipped.
    let (mut stock, mut baskets) = (BTreeMap::new(), BTreeMap::new());
    for Step { at, person, order, act } in &steps {
        match act {
            Act::Place(basket) => {
                assert!(placed.insert(*order));
                assert!(!basket.lines.is_empty());
                baskets.insert(*order, basket.clone());
            }
            Act::Ship => {
                let basket = &baskets[order];
                let counted = |(product, _): &&(usize, i64)| PRODUCTS[*product].is_counted();
                for (product, quantity) in basket.lines.iter().filter(counted) {
                    let left: &mut i64 = stock.get_mut(&(basket.pharmacy, *product)).unwrap();
                    *left -= quantity;
                    assert!(*left >= 0);
                }
            }
            Act::Deliver { pharmacy, product, units } => {
                *stock.entry((*pharmacy, *product)).or_insert(0) += units;
            }
            Act::Pay { .. } | Act::Close | Act::Receive | Act::Complete | Act::Refund { .. } => {
                assert!(placed.contains(order))
            }
            Act::Claim { .. } | Act::Leave { .. } => assert_eq!(*order, 0),
            Act::Promote(promotion) => {
                assert_eq!(Promotion::at(*at).map(Promotion::name), Some(promotion.name()));
            }
            Act::Visit(visit) => {
                assert!(visit.pages.is_sorted() && visit.pages[0].0 == *at);
            }
            Act::Enrol { .. } => assert!(enrolled.insert(*person)),
            Act::Dose { scheduled_at, .. } => {
                assert!(enrolled.contains(person));
                assert!(scheduled_at + KNOWN_AFTER_MICROS <= *at);
                if !doses.insert((*person, *scheduled_at)) {
                    twice += 1;
                }
            }
            Act::Measure(_) | Act::FollowUp(_) | Act::Dispense { .. } => {
                assert!(enrolled.contains(person));
            }
            Act::Join { member } => assert!(members.insert(*member)),
            Act::Follow { member } => assert!(members.contains(member)),
        }
    }
    assert_eq!((enrolled.len(), members.len()), (60, 16));
    assert!(twice > 0);
    // In the morning a pharmacy has again what it opened with.
    let opened = catalogue::stock_units(400);
    assert_eq!(stock.len(), 62 * 6);
    assert!(stock.values().all(|left| (opened - 25..=opened).contains(left)));
}

#[test]
fn pieces_of_a_day_are_the_day() {
    let model = Arc::new(Model::new(7, 400));
    let chunks = || History::new(Arc::clone(&model), FROM, FROM + 2 * DAY_MICROS);
    for most in [1, 7, 100_000] {
        for chunk in chunks() {
            let (until, steps) = (chunk.until, chunk.steps.clone());
            let mut from = chunk.until - DAY_MICROS;
            let pieces = chunk.pieces(most);
            assert_eq!(pieces.len() == 1, most > steps.len());
            assert!(pieces.iter().rev().skip(1).all(|piece| !piece.ends_day));
            let last = pieces.last().unwrap();
            assert!(last.ends_day && last.until == until);
            let mut all = Vec::new();
            for piece in pieces {
                // Whoever has the pieces before has none of this one.
                assert!(piece.steps.iter().all(|step| (from..piece.until).contains(&step.at)));
                let one_time = piece.steps.iter().all(|step| step.at == piece.steps[0].at);
                assert!(piece.steps.len() <= most || one_time);
                from = piece.until;
                all.extend(piece.steps);
            }
            assert_eq!(all, steps);
        }
    }
    // Sixteen acts at the midnight that it begins at are one piece.
    assert!(chunks().next().unwrap().pieces(1).len() > 100);
}

#[test]
fn as_much_happens_as_is_said() {
    let (model, steps) = history(1, 2_000, 90);
    let count = |wanted: fn(&Act) -> bool| {
        u32::try_from(steps.iter().filter(|step| wanted(&step.act)).count()).unwrap()
    };
    let orders = f64::from(count(|act| matches!(act, Act::Place(_))));
    let visits = f64::from(count(|act| matches!(act, Act::Visit(_))));
    assert!((230.0..250.0).contains(&(visits / 90.5)), "{visits} visits");
    // 0.12 visits of 2,000 people, one in five with an order, and refills of 300 patients.
    assert!((50.0..62.0).contains(&(orders / 90.5)), "{orders} orders");
    let paid = f64::from(count(|act| matches!(act, Act::Pay { .. }))) / orders;
    assert!((0.87..0.92).contains(&paid), "{paid} paid");
    let refunds = f64::from(count(|act| matches!(act, Act::Refund { .. }))) / orders / paid;
    assert!((0.045..0.075).contains(&refunds), "{refunds} refunded");
    let doses = f64::from(count(|act| matches!(act, Act::Dose { .. })));
    let missed = f64::from(count(|act| matches!(act, Act::Dose { taken_at: None, .. })));
    assert!((0.1..0.4).contains(&(missed / doses)), "{missed} of {doses} missed");
    let followed = count(|act| matches!(act, Act::Follow { .. }));
    assert!((1_000..3_000).contains(&followed), "{followed} followed a link");
    assert!(model.population.people.iter().any(|person| person.promoter == Some(0)));
    let share = |yes: f64, all: f64, chance: f64| {
        fits(&[yes, all - yes], &[all * chance, all * (1.0 - chance)])
    };
    // Of visits without an order one in ten leaves something in the cart.
    let left = f64::from(count(|act| matches!(act, Act::Leave { .. })));
    assert!(share(left, visits, 0.8 * 0.1) && !share(left, visits, 0.8 * 0.12), "{left}");
    let (mut during, mut brought) = (0.0, 0.0);
    for step in &steps {
        let Act::Visit(visit) = &step.act else { continue };
        let Some(promotion) = Promotion::at(step.at) else {
            assert_eq!(visit.campaign, None);
            continue;
        };
        during += 1.0;
        assert!(visit.campaign.is_none_or(|code| code == promotion.code()));
        brought += f64::from(u8::from(visit.campaign.is_some()));
    }
    assert!(share(brought, during, 0.3) && !share(brought, during, 0.34), "{brought} of {during}");
    // Of confirmed doses five in a hundred are confirmed late, and three twice.
    let (mut confirmed, mut late, mut twice) = (BTreeSet::new(), 0.0, 0.0);
    for Step { at, person, act, .. } in &steps {
        let Act::Dose { scheduled_at, taken_at: Some(_) } = act else { continue };
        let patient = model.population.people[*person].patient.as_ref().unwrap();
        if !patient.reminded {
            assert_eq!(scheduled_at + KNOWN_AFTER_MICROS, *at);
        } else if !confirmed.insert((*person, *scheduled_at)) {
            twice += 1.0;
        } else if scheduled_at + CONFIRMED_LATE_MICROS <= *at {
            late += 1.0;
        }
    }
    let confirmed = confirmed.len() as f64;
    assert!(share(late, confirmed, 0.05) && !share(late, confirmed, 0.06), "{late} of {confirmed}");
    assert!(share(twice, confirmed, 0.03) && !share(twice, confirmed, 0.038), "{twice}");
}

/// Patients whose adherence is measured in the year of the history, and how many of them adhere.
fn measured(seed: u64) -> (usize, usize) {
    let (model, steps) = history(seed, 2_000, 180);
    let mut fills: BTreeMap<usize, Vec<(i64, i64)>> = BTreeMap::new();
    for Step { at, person, act, .. } in &steps {
        let days = match act {
            Act::Dispense { days_supply, .. } => *days_supply,
            Act::Place(basket) => {
                let Some(patient) = &model.population.people[*person].patient else { continue };
                let packs = basket.lines.iter().find(|(product, _)| *product == patient.medicine);
                let Some((_, packs)) = packs else { continue };
                packs * patient.supply().1 / patient.supply().0
            }
            _ => continue,
        };
        fills.entry(*person).or_default().push(((at - FROM) / DAY_MICROS, days));
    }
    let year = Window { start: 0, end: 181 };
    let adherent: Vec<bool> = fills
        .values()
        .filter_map(|fills| {
            let fills: Vec<Fill<'_>> = fills
                .iter()
                .map(|(on, days)| Fill { drug: "C08CA01", on: *on, days: *days })
                .collect();
            measure(&fills, Carry::SameDrug, year)?.adherent()
        })
        .collect();
    (adherent.len(), adherent.iter().filter(|adherent| **adherent).count())
}

#[test]
fn half_a_year_measures_most_patients_and_the_rate_is_plausible() {
    for seed in [1, 5, 42] {
        let (measured, adherent) = measured(seed);
        assert!(measured >= 220, "seed {seed}: {measured} measured");
        let percent = adherent * 100 / measured;
        assert!((50..=85).contains(&percent), "seed {seed}: {percent} %");
    }
}

#[test]
fn who_stops_takes_no_more() {
    let (model, steps) = history(5, 2_000, 180);
    let mut last = BTreeMap::new();
    for step in steps.iter().filter(|s| matches!(s.act, Act::Dose { taken_at: Some(_), .. })) {
        last.insert(step.person, (step.at - FROM) / DAY_MICROS);
    }
    let stopped: Vec<i64> = model
        .population
        .patients()
        .filter(|(_, _, patient)| patient.habit == Habit::Stops)
        .filter_map(|(person, ..)| last.get(&person).copied())
        .collect();
    assert!(stopped.len() > 15);
    let early = stopped.iter().filter(|day| **day < 175).count();
    assert!(early * 4 > stopped.len() * 3, "{early} of {}", stopped.len());
}
