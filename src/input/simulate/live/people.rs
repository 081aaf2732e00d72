//! What the traffic needs: found when an earlier run or a history made it, made otherwise.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
use rand::rngs::StdRng;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Client, Refused};
use crate::input::simulate::{
    DAY_MICROS, SHANGHAI_MICROS,
    behaviour::Model,
    catalogue::{self, COUPONS, PRODUCTS},
    history::KNOWN_AFTER_MICROS,
    people::{Patient, Population},
};

/// Rows of one page of a list.
const LIST_ROWS: usize = 1_000;

/// What the model's shops and goods are to the services.
#[derive(Clone)]
pub(super) struct Shops {
    pub(super) model: Arc<Model>,
    pub(super) pharmacies: Vec<i64>,
    pub(super) products: Vec<i64>,
    pub(super) coupons: Vec<i64>,
}

/// The same, and what its people are.
pub(super) struct World {
    pub(super) shops: Shops,
    /// Whether some of the people have still to become what they are.
    partly: bool,
    /// The codes of the links of the distributors.
    pub(super) codes: Vec<String>,
    /// By the place of the person.
    pub(super) enrolled: Vec<Enrolled>,
    /// Who was seen to be bound since the traffic began.
    bound: Mutex<HashSet<usize>>,
}

pub(super) struct Enrolled {
    pub(super) patient_id: i64,
    pub(super) plan_id: i64,
    /// The reminder that was reported last.
    reported: Mutex<i64>,
}

impl Enrolled {
    /// The next reminder of which it is known now what became of it; each one once.
    pub(super) fn take_reminder(&self, patient: &Patient, now: i64) -> Option<i64> {
        // Poisoned or not, a time is whole.
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let midnight = |day: i64| day * DAY_MICROS - SHANGHAI_MICROS;
        let first = (*reported + SHANGHAI_MICROS).div_euclid(DAY_MICROS);
        let last = (now + SHANGHAI_MICROS).div_euclid(DAY_MICROS);
        let next = (first..=last)
            .flat_map(|day| patient.reminders(midnight(day)))
            .find(|at| at > &*reported && at + KNOWN_AFTER_MICROS <= now)?;
        *reported = next;
        Some(next)
    }
}

impl Shops {
    /// Finds or makes them.
    pub(super) async fn set_up(client: &Client, model: Arc<Model>) -> anyhow::Result<Self> {
        let pharmacies = catalogue::pharmacies().into_iter().map(|p| (p.name.clone(), p));
        let pharmacies = named(client, "/mall/pharmacies", "pharmacy_id", pharmacies)
            .await
            .context("pharmacies")?;
        let products = catalogue::products().into_iter().map(|p| (p.name.clone(), p));
        let products =
            named(client, "/mall/products", "product_id", products).await.context("products")?;
        let coupons = catalogue::coupons().into_iter().map(|c| (c.name.clone(), c));
        let coupons =
            named(client, "/mall/coupons", "coupon_id", coupons).await.context("coupons")?;
        Ok(Self { model, pharmacies, products, coupons })
    }
}

impl World {
    /// Of those alone who are buyers and nothing else.
    pub(super) fn of_passers_by(shops: Shops) -> Self {
        let (codes, enrolled, bound) = (Vec::new(), Vec::new(), Mutex::default());
        Self { shops, partly: true, codes, enrolled, bound }
    }

    /// Of all; finds or makes them at `now` (microseconds since 1970, UTC).
    pub(super) async fn set_up(client: &Client, shops: Shops, now: i64) -> anyhow::Result<Self> {
        let Shops { model, products, .. } = &shops;
        let distributors = distributors(client, model, products).await.context("distributors")?;
        let codes = codes(client, &distributors).await.context("links of distributors")?;
        let enrolled = patients(client, model, now).await.context("patients")?;
        Ok(Self { partly: false, codes, enrolled, bound: Mutex::default(), shops })
    }

    pub(super) fn population(&self) -> &Population {
        &self.shops.model.population
    }

    /// Somebody who may come now, if there is anybody.
    pub(super) fn visitor(&self, random: &mut StdRng) -> Option<usize> {
        let person = self.population().anybody(random);
        (!self.partly || self.population().is_buyer_alone(person)).then_some(person)
    }

    /// A patient with what the service calls them, if there is one.
    pub(super) fn any_patient(&self, random: &mut StdRng) -> Option<(&Patient, &Enrolled)> {
        if self.partly {
            return None;
        }
        let place = self.population().any_patient(random);
        self.population().people[place].patient.as_ref().zip(self.enrolled.get(place))
    }

    /// Whether this coupon may be claimed and used now: claims may be those of a past that is made.
    pub(super) fn takes(&self, coupon: usize) -> bool {
        !self.partly || !COUPONS[coupon].claimed
    }

    /// The code of the link that somebody comes by, if by one and not done yet.
    pub(super) fn code(&self, person: usize) -> Option<&str> {
        let member = self.population().people[person].promoter?;
        // Poisoned or not, a set of places is whole.
        let bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        (!bound.contains(&person)).then(|| self.codes.get(member).map(String::as_str)).flatten()
    }

    pub(super) fn note_bound(&self, person: usize) {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner).insert(person);
    }
}

/// Ids of all rows of a list, by what tells them apart; the oldest of several.
async fn present<K: std::hash::Hash + Eq>(
    client: &Client,
    path: &str,
    id: &str,
    key: impl Fn(&Value) -> Option<K>,
) -> anyhow::Result<HashMap<K, i64>> {
    let mut present = HashMap::new();
    let mut after_id = 0;
    loop {
        let page = client.get(&format!("{path}?after_id={after_id}&limit={LIST_ROWS}")).await?;
        let rows = page["items"].as_array().context("a list without items")?;
        for row in rows {
            let row_id = integer(row, id)?;
            after_id = after_id.max(row_id);
            if let Some(key) = key(row) {
                present.entry(key).or_insert(row_id);
            }
        }
        if rows.len() < LIST_ROWS {
            return Ok(present);
        }
    }
}

/// The ids of `wanted`, which are told apart by name; those that are missing are made.
async fn named<T: Serialize>(
    client: &Client,
    path: &str,
    id: &str,
    wanted: impl Iterator<Item = (String, T)>,
) -> anyhow::Result<Vec<i64>> {
    let name = |row: &Value| row["name"].as_str().map(str::to_owned);
    let present = present(client, path, id, name).await?;
    let mut ids = Vec::new();
    for (name, new) in wanted {
        ids.push(match present.get(&name) {
            Some(row_id) => *row_id,
            None => {
                let mut body = serde_json::to_value(new)?;
                // An id is the service's to give.
                body.as_object_mut().map(|fields| fields.remove(id));
                let key = format!("setup{path}/{}", ids.len());
                integer(&client.post(path, &key, &body).await?, id)?
            }
        });
    }
    Ok(ids)
}

/// The distributors, and the rules when there are none of either.
async fn distributors(
    client: &Client,
    model: &Model,
    products: &[i64],
) -> anyhow::Result<Vec<i64>> {
    let mut ids: Vec<i64> = Vec::new();
    for (member, traits) in model.population.members.iter().enumerate() {
        let body = json!({
            "person_id": model.population.people[traits.person].person_id,
            "parent_id": traits.parent.map(|parent| ids[parent]),
            "kind": traits.kind,
            "name": catalogue::distributor_name(member),
        });
        let key = format!("setup/distributor/{member}");
        let id = match client.post("/distribution/distributors", &key, &body).await {
            Ok(made) => {
                if member == 0 {
                    rules(client, products).await?;
                }
                integer(&made, "distributor_id")?
            }
            // Made by an earlier run or by the history, in this order.
            Err(refused) if refused.is_conflict() => i64::try_from(member)? + 1,
            Err(refused) => return Err(refused.into()),
        };
        ids.push(id);
    }
    Ok(ids)
}

/// The link of each distributor, made when there is none.
async fn codes(client: &Client, distributors: &[i64]) -> anyhow::Result<Vec<String>> {
    let mut codes = Vec::with_capacity(distributors.len());
    for distributor_id in distributors {
        let path = format!("/distribution/share-links?distributor_id={distributor_id}&limit=1");
        let found = client.get(&path).await?;
        let link = match &found["items"][0] {
            Value::Null => {
                let body =
                    json!({ "distributor_id": distributor_id, "page": catalogue::SHARED_PAGE });
                let key = format!("setup/link/{distributor_id}");
                client.post("/distribution/share-links", &key, &body).await?
            }
            there => there.clone(),
        };
        codes.push(link["code"].as_str().context("a link without a code")?.to_owned());
    }
    Ok(codes)
}

async fn rules(client: &Client, products: &[i64]) -> Result<(), Refused> {
    for (number, rule) in catalogue::rules(products).iter().enumerate() {
        let body = json!(rule);
        let key = format!("setup/rule/{number}/{}", body["product_id"]);
        // A newer rule takes the place of an equal one, so making it again later is harmless.
        client.post("/distribution/commission-rules", &key, &body).await?;
    }
    Ok(())
}

async fn patients(client: &Client, model: &Model, now: i64) -> anyhow::Result<Vec<Enrolled>> {
    let key = |row: &Value| row["person_id"].as_i64();
    let present = present(client, "/chronic-care/patients", "patient_id", key).await?;
    let mut enrolled = Vec::new();
    for (_, person, patient) in model.population.patients() {
        let number = person.number();
        let patient_id = match present.get(&person.person_id) {
            Some(patient_id) => *patient_id,
            None => {
                let body = json!({
                    "person_id": person.person_id,
                    "name": catalogue::patient_name(number),
                    "phone": catalogue::phone(number),
                    "sex": person.sex,
                    "birth_date": person.birth_date,
                    "condition": patient.condition,
                });
                let key = format!("setup/patient/{number}");
                integer(&client.post("/chronic-care/patients", &key, &body).await?, "patient_id")?
            }
        };
        let found = client.get(&format!("/chronic-care/patients/{patient_id}")).await?;
        let plan_id = match &found["medication_plans"][0] {
            Value::Null => make_plan(client, patient, number, patient_id, now).await?,
            plan => integer(plan, "plan_id")?,
        };
        // What nobody reported in the day before, as the traffic was away, is reported first.
        let reported = Mutex::new(now - KNOWN_AFTER_MICROS - DAY_MICROS);
        enrolled.push(Enrolled { patient_id, plan_id, reported });
    }
    Ok(enrolled)
}

async fn make_plan(
    client: &Client,
    patient: &Patient,
    number: i64,
    patient_id: i64,
    now: i64,
) -> anyhow::Result<i64> {
    let (drug_code, drug_class, _) = PRODUCTS[patient.medicine].drug.unwrap_or_default();
    let today = chrono::DateTime::from_timestamp_micros(now + SHANGHAI_MICROS);
    let body = json!({
        "patient_id": patient_id,
        "drug_code": drug_code,
        "drug_class": drug_class,
        "doses_per_day": patient.doses_per_day,
        "starts_on": today.context("a time outside the calendar")?.date_naive(),
    });
    let key = format!("setup/plan/{number}");
    let made = client.post("/chronic-care/medication-plans", &key, &body).await?;
    integer(&made, "plan_id")
}

pub(super) fn integer(row: &Value, field: &str) -> anyhow::Result<i64> {
    row[field].as_i64().with_context(|| format!("an answer without \"{field}\""))
}
