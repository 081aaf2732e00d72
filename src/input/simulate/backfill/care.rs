use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use medlake_operational::{
    Connection, OperationalError, Scope, WriteTransaction,
    chronic_care::{
        consents,
        devices::{self, DeviceKind},
        dispensings::{self, DispensingSource, NewDispensing},
        dose_events::{self, NewDoseEvent},
        follow_ups::{self, NewFollowUp},
        medication_plans::{self, NewMedicationPlan},
        patients::{self, NewPatient},
        programmes::{self, NewProgramme},
        readings::{self, NewReading},
        slots::{self, Confirmation},
        sweeps,
    },
};

use super::Part;
use crate::input::simulate::{
    behaviour::{Act, Model, Step},
    catalogue::{self, PRODUCTS},
    home,
    people::{Patient, Person},
};

/// The chronic-care service's part.
pub(super) struct Care {
    model: Arc<Model>,
    /// What the service calls a patient and their plan, by the place of the person.
    enrolled: HashMap<usize, Enrolled>,
}

#[derive(Debug, Clone)]
struct Enrolled {
    patient_id: i64,
    plan_id: i64,
    programme_id: Option<i64>,
    devices: Vec<(DeviceKind, i64)>,
}

impl Care {
    pub(super) fn open(model: &Arc<Model>) -> Self {
        Self { model: Arc::clone(model), enrolled: HashMap::new() }
    }

    /// Looked up once after a start.
    async fn enrolled(
        &mut self,
        on: &mut Connection,
        person: usize,
    ) -> Result<Enrolled, OperationalError> {
        if let Some(there) = self.enrolled.get(&person) {
            return Ok(there.clone());
        }
        let person_id = self.model.population.people[person].person_id;
        let unknown = OperationalError::NotFound { what: "patient", id: person_id };
        let patient = patients::of_person(on, Scope::DEFAULT_TENANT, person_id).await?;
        let Some(patient) = patient else { return Err(unknown) };
        let plans = medication_plans::of_patient(on, patient.patient_id).await?;
        let Some(plan) = plans.first() else { return Err(unknown) };
        let patient_id = patient.patient_id;
        let programmes = programmes::of_patient(on, patient_id).await?;
        let devices = devices::of_patient(on, patient_id).await?;
        let there = Enrolled {
            patient_id,
            plan_id: plan.plan_id,
            programme_id: programmes.first().map(|programme| programme.programme_id),
            devices: devices.iter().map(|device| (device.kind, device.device_id)).collect(),
        };
        self.enrolled.insert(person, there.clone());
        Ok(there)
    }

    async fn enrol(
        tx: &mut WriteTransaction,
        scope: Scope,
        person: &Person,
        patient: &Patient,
        starts_on: chrono::NaiveDate,
    ) -> Result<Enrolled, OperationalError> {
        let name = catalogue::patient_name(person.number());
        let new = NewPatient {
            phone: Some(catalogue::phone(person.number())),
            birth_date: Some(person.birth_date),
            ..NewPatient::new(person.person_id, name, person.sex, patient.condition)
        };
        let made = patients::create(tx, scope, new).await?;
        let (drug_code, drug_class, _) = PRODUCTS[patient.medicine].drug.unwrap_or_default();
        let plan = NewMedicationPlan {
            clock_times: patient.reminded.then(|| patient.clock_times()),
            ..NewMedicationPlan::new(
                made.patient_id,
                drug_code,
                drug_class,
                patient.doses_per_day,
                starts_on,
            )
        };
        let plan = medication_plans::create(tx, scope, plan).await?;
        let mut devices = Vec::new();
        for kind in home::devices(patient) {
            let new = catalogue::device(*kind, person.number());
            let device = devices::register(tx, scope, &new).await?;
            devices::assign(tx, scope, device.device_id, made.patient_id).await?;
            devices.push((*kind, device.device_id));
        }
        for new in catalogue::consents(patient.consents) {
            consents::give(tx, scope, made.patient_id, &new).await?;
        }
        let mut programme_id = None;
        if let Some(template) = patient.programme() {
            let new = NewProgramme { template: template.to_owned() };
            let started = programmes::start(tx, scope, made.patient_id, &new).await?;
            programme_id = Some(started.programme_id);
        }
        Ok(Enrolled { patient_id: made.patient_id, plan_id: plan.plan_id, programme_id, devices })
    }
}

impl Part for Care {
    async fn act(
        &mut self,
        tx: &mut WriteTransaction,
        scope: Scope,
        step: &Step,
    ) -> Result<bool, OperationalError> {
        let model = Arc::clone(&self.model);
        let person = &model.population.people[step.person];
        let Some(patient) = &person.patient else { return Ok(false) };
        match &step.act {
            Act::Enrol { starts_on } => {
                let made = Self::enrol(tx, scope, person, patient, *starts_on).await?;
                self.enrolled.insert(step.person, made);
            }
            Act::Dispense { on, days_supply } => {
                let there = self.enrolled(tx, step.person).await?;
                let (drug_code, drug_class, _) =
                    PRODUCTS[patient.medicine].drug.unwrap_or_default();
                let new = NewDispensing {
                    dispensing_id: None,
                    patient_id: there.patient_id,
                    drug_code: drug_code.to_owned(),
                    drug_class: drug_class.to_owned(),
                    dispensed_on: *on,
                    days_supply: *days_supply,
                    source: DispensingSource::Hospital,
                };
                dispensings::create_many(tx, scope, &[new]).await?;
            }
            Act::Dose { scheduled_at, taken_at } => {
                let Enrolled { plan_id, .. } = self.enrolled(tx, step.person).await?;
                let (scheduled_at, taken_at) = (*scheduled_at, *taken_at);
                match (patient.reminded, taken_at) {
                    (false, _) => {
                        let new = NewDoseEvent { plan_id, scheduled_at, taken_at };
                        dose_events::record(tx, scope, new).await?;
                    }
                    (true, Some(_)) => {
                        slots::confirm(tx, scope, plan_id, Confirmation { taken_at }).await?;
                    }
                    // Nobody confirms it: its slot passes.
                    (true, None) => {}
                }
            }
            Act::Measure(reading) => {
                let Enrolled { patient_id, devices, .. } = self.enrolled(tx, step.person).await?;
                let Some(sent) = &reading.sent else {
                    let new = NewReading {
                        measured_at: Some(reading.measured_at),
                        systolic_mmhg: reading.systolic_mmhg,
                        diastolic_mmhg: reading.diastolic_mmhg,
                        pulse_per_min: reading.pulse_per_min,
                        glucose_umol_per_l: reading.glucose_umol_per_l,
                        ..NewReading::new(patient_id, reading.kind)
                    };
                    readings::record(tx, scope, new).await?;
                    return Ok(true);
                };
                let unknown = OperationalError::NotFound { what: "device", id: patient_id };
                let device = devices.iter().find(|(kind, _)| *kind == reading.device());
                let (_, device_id) = device.ok_or(unknown)?;
                let upload = reading.upload(sent, scope.now);
                for _ in 0..=i32::from(sent.again) {
                    devices::upload(tx, scope, *device_id, &upload).await?;
                }
            }
            Act::FollowUp(found) => {
                let Enrolled { patient_id, programme_id, .. } =
                    self.enrolled(tx, step.person).await?;
                let answers = match programme_id {
                    Some(id) => found.answers(&programmes::find(tx, scope, id).await?.step),
                    None => BTreeMap::new(),
                };
                let new = NewFollowUp {
                    programme_id,
                    answers,
                    systolic_mmhg: Some(found.systolic_mmhg),
                    diastolic_mmhg: Some(found.diastolic_mmhg),
                    fasting_glucose_umol_per_l: found.fasting_glucose_umol_per_l,
                    on_target: found.on_target,
                    ..NewFollowUp::new(patient_id, found.method)
                };
                follow_ups::record(tx, scope, new).await?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    async fn end_of_day(
        &mut self,
        tx: &mut WriteTransaction,
        scope: Scope,
    ) -> Result<(), OperationalError> {
        sweeps::of_past(tx, scope.now).await
    }
}
