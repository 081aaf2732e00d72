use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use anyhow::Context;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use rand_distr::{Distribution, Zipf};
use serde_json::{Value, json};

use super::{
    Client, Refused, catalogue,
    history::History,
    patients::{self, PATIENTS, Patient},
};
use crate::input::recording::PROVINCES;

/// Ids of simulated persons: buyers, the first of whom are patients, and distributors.
pub(super) const BUYER_IDS: i64 = 1_000_000;
const DISTRIBUTOR_PERSON_IDS: i64 = 2_000_000;
const BUYERS: i64 = 5_000;
const DISTRIBUTORS: i64 = 200;
/// Distributors that nobody brought in.
const ROOTS: usize = 12;
const PHARMACIES: usize = 62;
/// Rows of one page of a list.
const LIST_ROWS: usize = 1_000;

/// What the traffic moves among. Everything but the ids follows from the seed.
pub(super) struct World {
    pub(super) pharmacies: Vec<i64>,
    pub(super) products: Vec<Product>,
    pub(super) coupons: Vec<i64>,
    pub(super) distributors: Vec<i64>,
    pub(super) patients: Vec<Patient>,
    /// What no earlier run imported yet.
    pub(super) histories: Vec<History>,
    buyers: Zipf<f64>,
    shops: Zipf<f64>,
    shelf: Zipf<f64>,
    promoters: Zipf<f64>,
    /// Who was seen to be bound since the traffic began.
    bound: Mutex<HashSet<i64>>,
}

pub(super) struct Product {
    pub(super) product_id: i64,
    pub(super) drug_code: Option<&'static str>,
}

impl World {
    /// A buyer: mostly by Zipf's law, one in five a patient.
    pub(super) fn buyer(&self, random: &mut StdRng) -> (i64, Option<&Patient>) {
        if random.random_bool(0.2)
            && let Some(patient) = self.patients.choose(random)
        {
            return (patient.person_id, Some(patient));
        }
        // Patients are the first persons; the rest are ranked behind them.
        let rank = rank(&self.buyers, random);
        (BUYER_IDS + PATIENTS + rank + 1, None)
    }

    pub(super) fn pharmacy(&self, random: &mut StdRng) -> i64 {
        pick(&self.pharmacies, &self.shops, random)
    }

    pub(super) fn product(&self, random: &mut StdRng) -> i64 {
        self.products[index(rank(&self.shelf, random), self.products.len())].product_id
    }

    pub(super) fn medicine(&self, drug_code: &str) -> Option<i64> {
        self.products.iter().find(|p| p.drug_code == Some(drug_code)).map(|p| p.product_id)
    }

    /// To whom a person is to be bound, if to anyone and not done yet; the same each time.
    pub(super) fn promoter(&self, person_id: i64) -> Option<i64> {
        // Poisoned or not, a set of ids is whole.
        if self.bound.lock().unwrap_or_else(PoisonError::into_inner).contains(&person_id) {
            return None;
        }
        let mut random = StdRng::seed_from_u64(person_id.unsigned_abs());
        (!self.distributors.is_empty() && random.random_bool(0.4))
            .then(|| pick(&self.distributors, &self.promoters, &mut random))
    }

    pub(super) fn note_bound(&self, person_id: i64) {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner).insert(person_id);
    }
}

/// A place by Zipf's law, from 0.
#[expect(clippy::cast_possible_truncation, reason = "the law is over at most some thousand places")]
fn rank(law: &Zipf<f64>, random: &mut impl Rng) -> i64 {
    law.sample(random) as i64 - 1
}

fn index(rank: i64, len: usize) -> usize {
    usize::try_from(rank).unwrap_or(0).min(len - 1)
}

fn pick(ids: &[i64], law: &Zipf<f64>, random: &mut impl Rng) -> i64 {
    ids[index(rank(law, random), ids.len())]
}

/// Finds or makes what the traffic needs, at `now` (microseconds since 1970, UTC).
pub(super) async fn set_up(client: &Client, seed: u64, now: i64) -> anyhow::Result<World> {
    let mut random = StdRng::seed_from_u64(seed ^ 0x5e7_0b0b);
    let pharmacies = pharmacies(client).await.context("pharmacies")?;
    let products = products(client).await.context("products")?;
    let coupons = named(client, "/mall/coupons", "coupon_id", catalogue::coupons())
        .await
        .context("coupons")?;
    rules(client, &products).await.context("commission rules")?;
    let distributors = distributors(client, &mut random).await.context("distributors")?;
    let (patients, histories) = patients::set_up(client, seed, now).await.context("patients")?;
    let law = |places: usize, exponent: f64| {
        let places = u32::try_from(places.max(1)).context("too many")?;
        Zipf::new(f64::from(places), exponent).map_err(anyhow::Error::msg)
    };
    // The best sellers are spread over the kinds.
    let mut products = products;
    for place in (1..products.len()).rev() {
        products.swap(place, random.random_range(0..=place));
    }
    Ok(World {
        buyers: law(usize::try_from(BUYERS - PATIENTS)?, 0.9)?,
        shops: law(pharmacies.len(), 0.6)?,
        shelf: law(products.len(), 0.8)?,
        promoters: law(distributors.len(), 1.1)?,
        pharmacies,
        products,
        coupons,
        distributors,
        patients,
        histories,
        bound: Mutex::default(),
    })
}

/// All rows of a list, by name.
async fn present(client: &Client, path: &str, id: &str) -> anyhow::Result<HashMap<String, i64>> {
    let mut present = HashMap::new();
    let mut after_id = 0;
    loop {
        let page = client.get(&format!("{path}?after_id={after_id}&limit={LIST_ROWS}")).await?;
        let rows = page["items"].as_array().context("a list without items")?;
        for row in rows {
            let row_id = integer(row, id)?;
            after_id = after_id.max(row_id);
            if let Some(name) = row["name"].as_str() {
                present.entry(name.to_owned()).or_insert(row_id);
            }
        }
        if rows.len() < LIST_ROWS {
            return Ok(present);
        }
    }
}

/// The ids of `wanted`, which are told apart by name; those that are missing are made.
async fn named(
    client: &Client,
    path: &str,
    id: &str,
    wanted: Vec<Value>,
) -> anyhow::Result<Vec<i64>> {
    let present = present(client, path, id).await?;
    let mut ids = Vec::with_capacity(wanted.len());
    for body in wanted {
        let name = body["name"].as_str().unwrap_or_default();
        ids.push(match present.get(name) {
            Some(row_id) => *row_id,
            None => {
                let key = format!("setup{path}/{}", ids.len());
                integer(&client.post(path, &key, &body).await?, id)?
            }
        });
    }
    Ok(ids)
}

async fn pharmacies(client: &Client) -> anyhow::Result<Vec<i64>> {
    // Populous provinces first: Zipf's law favours the first.
    let busy = ["广东", "浙江", "江苏", "山东", "四川", "河南", "上海", "北京", "湖北", "福建"];
    let mut provinces: Vec<&str> = busy.to_vec();
    provinces.extend(PROVINCES.iter().filter(|p| !busy.contains(p)));
    let wanted = (0..PHARMACIES)
        .map(|number| {
            let region = provinces[number % provinces.len()];
            let shop = number / provinces.len() + 1;
            json!({ "name": format!("普药大药房 {region}{shop}店"), "region": region })
        })
        .collect();
    named(client, "/mall/pharmacies", "pharmacy_id", wanted).await
}

async fn products(client: &Client) -> anyhow::Result<Vec<Product>> {
    let wanted = catalogue::PRODUCTS.iter().map(catalogue::Medicine::body).collect();
    let ids = named(client, "/mall/products", "product_id", wanted).await?;
    Ok(ids
        .into_iter()
        .zip(&catalogue::PRODUCTS)
        .map(|(product_id, p)| Product { product_id, drug_code: p.drug.map(|(code, ..)| code) })
        .collect())
}

async fn rules(client: &Client, products: &[Product]) -> Result<(), Refused> {
    let product_id = |name: &str| {
        let place = catalogue::PRODUCTS.iter().position(|p| p.name == name)?;
        products.get(place).map(|p| p.product_id)
    };
    for (number, rule) in catalogue::rules(product_id).iter().enumerate() {
        let key = format!("setup/rule/{number}/{}", rule["product_id"]);
        // A newer rule takes the place of an equal one, so making it again later is harmless.
        client.post("/distribution/commission-rules", &key, rule).await?;
    }
    Ok(())
}

/// A tree by preferential attachment: who has brought in many brings in more.
async fn distributors(client: &Client, random: &mut StdRng) -> anyhow::Result<Vec<i64>> {
    let mut ids: Vec<i64> = Vec::new();
    // Each distributor once, and once more for each one it brought in.
    let mut tickets: Vec<usize> = Vec::new();
    for number in 0..DISTRIBUTORS {
        let parent = if ids.len() < ROOTS { None } else { tickets.choose(random).copied() };
        let kind = match random.random_range(0..10) {
            0 => "institution",
            1 | 2 => "pharmacy",
            _ => "person",
        };
        let body = json!({
            "person_id": DISTRIBUTOR_PERSON_IDS + number,
            "parent_id": parent.map(|p| ids[p]),
            "kind": kind,
            "name": format!("分销 {:04}", number + 1),
        });
        let key = format!("setup/distributor/{number}");
        let id = match client.post("/distribution/distributors", &key, &body).await {
            Ok(made) => integer(&made, "distributor_id")?,
            // Made by an earlier run, in this order.
            Err(refused) if refused.is_conflict() => number + 1,
            Err(refused) => return Err(refused.into()),
        };
        tickets.push(ids.len());
        tickets.extend(parent);
        ids.push(id);
    }
    Ok(ids)
}

pub(super) fn integer(row: &Value, field: &str) -> anyhow::Result<i64> {
    row[field].as_i64().with_context(|| format!("an answer without \"{field}\""))
}
