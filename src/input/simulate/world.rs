use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use anyhow::Context;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use rand_distr::{Distribution, Normal, Zipf};
use serde_json::{Value, json};

use super::{Client, Refused, catalogue};
use crate::input::recording::PROVINCES;

/// Ids of simulated persons: buyers, the first of whom are patients, and distributors.
const BUYER_IDS: i64 = 1_000_000;
const DISTRIBUTOR_PERSON_IDS: i64 = 2_000_000;
const BUYERS: i64 = 5_000;
const PATIENTS: i64 = 300;
const DISTRIBUTORS: i64 = 200;
/// Distributors that nobody brought in.
const ROOTS: usize = 12;
const PHARMACIES: usize = 62;
/// Requests of the set-up that depend on nothing but each other's order are sent one by one; it
/// takes a second or two.
const LIST_ROWS: usize = 1_000;

/// What the traffic moves among. Everything but the ids follows from the seed.
pub(super) struct World {
    pub(super) pharmacies: Vec<i64>,
    pub(super) products: Vec<Product>,
    pub(super) coupons: Vec<i64>,
    pub(super) distributors: Vec<i64>,
    pub(super) patients: Vec<Patient>,
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

pub(super) struct Patient {
    pub(super) patient_id: i64,
    pub(super) person_id: i64,
    pub(super) diabetes: bool,
    /// The plan they take doses of.
    pub(super) plan: Option<Plan>,
    pub(super) systolic_mmhg: f64,
    pub(super) diastolic_mmhg: f64,
    pub(super) glucose_umol_per_l: f64,
    /// How well they keep to their plan: the chance of a dose on time.
    pub(super) diligence: f64,
}

pub(super) struct Plan {
    pub(super) plan_id: i64,
    pub(super) drug_code: String,
    pub(super) doses_per_day: i64,
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

/// Finds or makes what the traffic needs.
pub(super) async fn set_up(client: &Client, seed: u64) -> anyhow::Result<World> {
    let mut random = StdRng::seed_from_u64(seed ^ 0x5e7_0b0b);
    let pharmacies = pharmacies(client).await.context("pharmacies")?;
    let products = products(client).await.context("products")?;
    let coupons = named(client, "/mall/coupons", "coupon_id", catalogue::coupons())
        .await
        .context("coupons")?;
    rules(client, &products).await.context("commission rules")?;
    let distributors = distributors(client, &mut random).await.context("distributors")?;
    let patients = patients(client, &mut random).await.context("patients")?;
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

async fn patients(client: &Client, random: &mut StdRng) -> anyhow::Result<Vec<Patient>> {
    let mut patients = Vec::new();
    let mut met_before = false;
    for number in 1..=PATIENTS {
        let drawn = Drawn::new(random)?;
        let person_id = BUYER_IDS + number;
        let key = format!("setup/patient/{number}");
        let body = json!({
            "person_id": person_id,
            "name": format!("顾客 {number:05}"),
            "sex": drawn.sex,
            "birth_date": drawn.birth_date,
            "condition": drawn.condition,
        });
        let made = match client.post("/chronic-care/patients", &key, &body).await {
            Ok(made) => made,
            Err(refused) if refused.is_conflict() => {
                met_before = true;
                continue;
            }
            Err(refused) => return Err(refused.into()),
        };
        let patient_id = integer(&made, "patient_id")?;
        let plan = plan(client, number, &made, drawn.drug).await?;
        patients.push(drawn.patient(patient_id, person_id, plan));
    }
    if met_before {
        patients.extend(enrolled(client, random).await?);
    }
    Ok(patients)
}

/// What the seed says of a patient.
struct Drawn {
    sex: &'static str,
    birth_date: String,
    condition: &'static str,
    drug: (&'static str, &'static str),
    systolic_mmhg: f64,
    diastolic_mmhg: f64,
    glucose_umol_per_l: f64,
    diligence: f64,
}

impl Drawn {
    fn new(random: &mut StdRng) -> anyhow::Result<Self> {
        let condition = match random.random_range(0..10) {
            0..6 => "hypertension",
            6..9 => "diabetes",
            _ => "other",
        };
        let class = if condition == "diabetes" { "A10B" } else { "C0" };
        let drugs: Vec<(&str, &str)> = catalogue::PRODUCTS
            .iter()
            .filter_map(|p| p.drug)
            .filter(|(code, ..)| code.starts_with(class))
            .map(|(code, class, _)| (code, class))
            .collect();
        let mut normal = |mean, deviation| {
            Normal::new(mean, deviation).map_err(anyhow::Error::msg).map(|n| n.sample(&mut *random))
        };
        let systolic_mmhg = normal(136.0, 9.0)?;
        let diastolic_mmhg = normal(84.0, 6.0)?;
        let glucose_umol_per_l = normal(6_800.0, 900.0)?;
        Ok(Self {
            sex: if random.random_bool(0.5) { "female" } else { "male" },
            birth_date: format!(
                "{}-{:02}-{:02}",
                random.random_range(1940..1985),
                random.random_range(1..=12),
                random.random_range(1..=28)
            ),
            condition,
            drug: *drugs.choose(random).context("no medicine for the condition")?,
            systolic_mmhg,
            diastolic_mmhg,
            glucose_umol_per_l,
            diligence: random.random_range(0.55..0.98),
        })
    }

    fn patient(&self, patient_id: i64, person_id: i64, plan: Option<Plan>) -> Patient {
        Patient {
            patient_id,
            person_id,
            diabetes: self.condition == "diabetes",
            plan,
            systolic_mmhg: self.systolic_mmhg,
            diastolic_mmhg: self.diastolic_mmhg,
            glucose_umol_per_l: self.glucose_umol_per_l,
            diligence: self.diligence,
        }
    }
}

/// The plan of a patient just enrolled, from 60 days before that day on.
async fn plan(
    client: &Client,
    number: i64,
    patient: &Value,
    (drug_code, drug_class): (&str, &str),
) -> anyhow::Result<Option<Plan>> {
    let enrolled = chrono::DateTime::from_timestamp_micros(integer(patient, "enrolled_at")?)
        .context("enrolled outside the calendar")?;
    let starts_on = enrolled.date_naive() - chrono::Days::new(PLAN_DAYS_BEFORE);
    let doses_per_day = if number % 3 == 0 { 2 } else { 1 };
    let body = json!({
        "patient_id": integer(patient, "patient_id")?,
        "drug_code": drug_code,
        "drug_class": drug_class,
        "doses_per_day": doses_per_day,
        "starts_on": starts_on.to_string(),
    });
    let key = format!("setup/plan/{number}");
    let made = client.post("/chronic-care/medication-plans", &key, &body).await?;
    let plan_id = integer(&made, "plan_id")?;
    Ok(Some(Plan { plan_id, drug_code: drug_code.to_owned(), doses_per_day }))
}

/// How long before their enrolment the plans of simulated patients begin, in days.
pub(super) const PLAN_DAYS_BEFORE: u64 = 60;

/// Patients of an earlier run, found by their ids, which the service gave from 1 on.
async fn enrolled(client: &Client, random: &mut StdRng) -> anyhow::Result<Vec<Patient>> {
    let mut patients = Vec::new();
    for patient_id in 1.. {
        let found = match client.get(&format!("/chronic-care/patients/{patient_id}")).await {
            Ok(found) => found,
            Err(refused) if refused.is_not_found() => break,
            Err(refused) => return Err(refused.into()),
        };
        let person_id = integer(&found, "person_id")?;
        if !(BUYER_IDS + 1..=BUYER_IDS + PATIENTS).contains(&person_id) {
            continue;
        }
        let plan = match &found["medication_plans"][0] {
            Value::Null => None,
            plan => Some(Plan {
                plan_id: integer(plan, "plan_id")?,
                drug_code: plan["drug_code"].as_str().unwrap_or_default().to_owned(),
                doses_per_day: integer(plan, "doses_per_day")?,
            }),
        };
        let mut patient = Drawn::new(random)?.patient(patient_id, person_id, plan);
        patient.diabetes = found["condition"] == "diabetes";
        patients.push(patient);
    }
    Ok(patients)
}

pub(super) fn integer(row: &Value, field: &str) -> anyhow::Result<i64> {
    row[field].as_i64().with_context(|| format!("an answer without \"{field}\""))
}
