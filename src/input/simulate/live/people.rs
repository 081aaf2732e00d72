//! What the traffic needs: found when an earlier run or a history made it, made otherwise.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
use medlake_operational::chronic_care::devices::{DeviceKind, NewDevice};
use rand::rngs::StdRng;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Client, Refused};
use crate::input::simulate::{
    DAY_MICROS,
    behaviour::{Act, Model},
    catalogue::{self, PRODUCTS},
    date, day_of,
    history::KNOWN_AFTER_MICROS,
    home, midnight,
    people::{Patient, Population},
    promotions::Promotion,
};

/// Rows of one page of a list.
const LIST_ROWS: usize = 1_000;
/// How often somebody is drawn who may be the one that is looked for.
const DRAWS_MAX: usize = 20;

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
    /// The variant of each product.
    pub(super) variants: Vec<i64>,
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
    pub(super) devices: Vec<(DeviceKind, i64)>,
    /// The reminder that was reported last.
    reported: Mutex<i64>,
}

impl Enrolled {
    /// The next reminder of which it is known now what became of it; each one once.
    pub(super) fn take_reminder(&self, patient: &Patient, now: i64) -> Option<i64> {
        // Poisoned or not, a time is whole.
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let next = (day_of(*reported)..=day_of(now))
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

    /// Makes the campaign of the day of this time, unless it is there.
    pub(super) async fn promote(&self, client: &Client, now: i64) {
        let Some(promotion) = Promotion::of_day(now) else { return };
        if let Err(error) = self.make(client, promotion).await {
            tracing::warn!(error = format!("{error:#}"), "could not make the campaign of the day");
        }
    }

    async fn make(&self, client: &Client, promotion: Promotion) -> anyhow::Result<()> {
        const CAMPAIGNS: &str = "/mall/campaigns";
        let new = promotion.campaign(&self.products);
        let name = |row: &Value| row["name"].as_str().map(str::to_owned);
        if !present(client, CAMPAIGNS, "campaign_id", name).await?.contains_key(&new.name) {
            let key = format!("setup{CAMPAIGNS}/{}", new.starts_at);
            client.post(CAMPAIGNS, &key, &json!(new)).await?;
        }
        Ok(())
    }
}

impl World {
    /// Of those alone who are buyers and nothing else.
    pub(super) fn of_passers_by(shops: Shops) -> Self {
        let (variants, codes, enrolled) = (Vec::new(), Vec::new(), Vec::new());
        Self { shops, variants, partly: true, codes, enrolled, bound: Mutex::default() }
    }

    /// Of all; finds or makes them at `now` (microseconds since 1970, UTC).
    pub(super) async fn set_up(client: &Client, shops: Shops, now: i64) -> anyhow::Result<Self> {
        let Shops { model, products, .. } = &shops;
        let distributors = distributors(client, model, products).await.context("distributors")?;
        let codes = codes(client, &distributors).await.context("links of distributors")?;
        let enrolled = patients(client, model, now).await.context("patients")?;
        let mut variants = Vec::with_capacity(products.len());
        for product_id in products {
            let product = client.get(&format!("/mall/products/{product_id}")).await?;
            variants.push(integer(&product["variants"][0], "variant_id")?);
        }
        Ok(Self { variants, partly: false, codes, enrolled, bound: Mutex::default(), shops })
    }

    pub(super) fn population(&self) -> &Population {
        &self.shops.model.population
    }

    /// Somebody who may come now, if there is anybody.
    pub(super) fn visitor(&self, random: &mut StdRng) -> Option<usize> {
        let person = self.population().anybody(random);
        (!self.partly || self.population().is_buyer_alone(person)).then_some(person)
    }

    /// A patient of whom this is true, with what the service calls them; none if it is of few.
    pub(super) fn any_patient(
        &self,
        is_wanted: impl Fn(&Patient) -> bool,
        random: &mut StdRng,
    ) -> Option<(&Patient, &Enrolled)> {
        if self.partly {
            return None;
        }
        (0..DRAWS_MAX).find_map(|_| {
            let place = self.population().any_patient(random);
            let patient = self.population().people[place].patient.as_ref();
            patient.filter(|patient| is_wanted(patient)).zip(self.enrolled.get(place))
        })
    }

    /// Whether carts may be used now: a past that is made has its own.
    pub(super) fn has_carts(&self) -> bool {
        !self.partly
    }

    /// Whether this may be done now: stock that is counted, claims and carts may be those of a past
    /// that is made.
    pub(super) fn allows(&self, act: &Act) -> bool {
        let changes_a_past = match act {
            Act::Place(basket) => {
                basket.lines.iter().any(|(product, _)| PRODUCTS[*product].is_counted())
            }
            Act::Claim { .. } | Act::Leave { .. } => true,
            _ => false,
        };
        !(self.partly && changes_a_past)
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
    let key =
        |row: &Value| Some((row["kind"].as_str()?.to_owned(), row["serial"].as_str()?.to_owned()));
    let registered = self::present(client, "/chronic-care/devices", "device_id", key).await?;
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
        // What nobody reported in the day before, as the traffic was away, is reported first.
        let mut since = now - KNOWN_AFTER_MICROS - DAY_MICROS;
        let plan_id = match &found["medication_plans"][0] {
            Value::Null => {
                // Nobody was reminded before there was a plan.
                since = if patient.reminded { now } else { since };
                make_plan(client, patient, number, patient_id, now).await?
            }
            plan => integer(plan, "plan_id")?,
        };
        begin_programme(client, patient, number, patient_id).await?;
        let mut devices = Vec::new();
        for kind in home::devices(patient) {
            let new = catalogue::device(*kind, number);
            let there = registered.get(&(kind.to_string(), new.serial.clone())).copied();
            let device_id = lend(client, &new, there, patient_id).await?;
            devices.push((*kind, device_id));
        }
        let reported = Mutex::new(since);
        enrolled.push(Enrolled { patient_id, plan_id, devices, reported });
    }
    Ok(enrolled)
}

/// Starts the programme of a patient who is in none, with the consents it needs.
async fn begin_programme(
    client: &Client,
    patient: &Patient,
    number: i64,
    patient_id: i64,
) -> anyhow::Result<()> {
    let path = format!("/chronic-care/patients/{patient_id}");
    let Some(template) = patient.programme() else { return Ok(()) };
    let found = client.get(&format!("{path}/programmes")).await?;
    if !found["items"][0].is_null() {
        return Ok(());
    }
    for (place, consent) in catalogue::consents(patient.consents).iter().enumerate() {
        let key = format!("setup/consent/{number}/{place}");
        or_there(client.post(&format!("{path}/consents"), &key, &json!(consent)).await)?;
    }
    let key = format!("setup/programme/{number}");
    let body = json!({ "template": template });
    or_there(client.post(&format!("{path}/programmes"), &key, &body).await)?;
    Ok(())
}

/// Registers a device unless it is there, and gives it to a patient unless somebody has it.
async fn lend(
    client: &Client,
    new: &NewDevice,
    there: Option<i64>,
    patient_id: i64,
) -> anyhow::Result<i64> {
    let key = format!("setup/device/{}/{}", new.kind, new.serial);
    let device_id = match there {
        Some(device_id) => device_id,
        None => {
            integer(&client.post("/chronic-care/devices", &key, &json!(new)).await?, "device_id")?
        }
    };
    let path = format!("/chronic-care/devices/{device_id}/assignment");
    let body = json!({ "patient_id": patient_id });
    or_there(client.post(&path, &format!("{key}/assignment"), &body).await)?;
    Ok(device_id)
}

/// What an earlier run or the history made is not made again.
fn or_there(made: Result<Value, Refused>) -> Result<(), Refused> {
    match made {
        Err(refused) if !refused.is_conflict() => Err(refused),
        _ => Ok(()),
    }
}

async fn make_plan(
    client: &Client,
    patient: &Patient,
    number: i64,
    patient_id: i64,
    now: i64,
) -> anyhow::Result<i64> {
    let (drug_code, drug_class, _) = PRODUCTS[patient.medicine].drug.unwrap_or_default();
    let body = json!({
        "patient_id": patient_id,
        "drug_code": drug_code,
        "drug_class": drug_class,
        "doses_per_day": patient.doses_per_day,
        "clock_times": patient.reminded.then(|| patient.clock_times()),
        "starts_on": date(now),
    });
    let key = format!("setup/plan/{number}");
    let made = client.post("/chronic-care/medication-plans", &key, &body).await?;
    integer(&made, "plan_id")
}

pub(super) fn integer(row: &Value, field: &str) -> anyhow::Result<i64> {
    row[field].as_i64().with_context(|| format!("an answer without \"{field}\""))
}
