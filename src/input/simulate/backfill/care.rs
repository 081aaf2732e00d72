use std::{collections::HashMap, sync::Arc};

use medlake_operational::{
    Connection, OperationalError, Scope, WriteTransaction,
    chronic_care::{
        dispensings::{self, DispensingSource, NewDispensing},
        dose_events::{self, NewDoseEvent},
        follow_ups::{self, NewFollowUp},
        medication_plans::{self, NewMedicationPlan},
        patients::{self, NewPatient},
        readings::{self, NewReading},
    },
};

use super::Part;
use crate::input::simulate::{
    behaviour::{Act, Model, Step},
    catalogue::{self, PRODUCTS},
    people::{Patient, Person},
};

/// The chronic-care service's part.
pub(super) struct Care {
    model: Arc<Model>,
    /// What the service calls a patient and their plan, by the place of the person.
    enrolled: HashMap<usize, Enrolled>,
}

#[derive(Debug, Clone, Copy)]
struct Enrolled {
    patient_id: i64,
    plan_id: i64,
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
            return Ok(*there);
        }
        let person_id = self.model.population.people[person].person_id;
        let unknown = OperationalError::NotFound { what: "patient", id: person_id };
        let patient = patients::of_person(on, Scope::DEFAULT_TENANT, person_id).await?;
        let Some(patient) = patient else { return Err(unknown) };
        let plans = medication_plans::of_patient(on, patient.patient_id).await?;
        let Some(plan) = plans.first() else { return Err(unknown) };
        let there = Enrolled { patient_id: patient.patient_id, plan_id: plan.plan_id };
        self.enrolled.insert(person, there);
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
        let plan = NewMedicationPlan::new(
            made.patient_id,
            drug_code,
            drug_class,
            patient.doses_per_day,
            starts_on,
        );
        let plan = medication_plans::create(tx, scope, plan).await?;
        Ok(Enrolled { patient_id: made.patient_id, plan_id: plan.plan_id })
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
                let new =
                    NewDoseEvent { plan_id, scheduled_at: *scheduled_at, taken_at: *taken_at };
                dose_events::record(tx, scope, new).await?;
            }
            Act::Measure(reading) => {
                let Enrolled { patient_id, .. } = self.enrolled(tx, step.person).await?;
                let new = NewReading {
                    systolic_mmhg: reading.systolic_mmhg,
                    diastolic_mmhg: reading.diastolic_mmhg,
                    pulse_per_min: reading.pulse_per_min,
                    glucose_umol_per_l: reading.glucose_umol_per_l,
                    ..NewReading::new(patient_id, reading.kind)
                };
                readings::record(tx, scope, new).await?;
            }
            Act::FollowUp(found) => {
                let Enrolled { patient_id, .. } = self.enrolled(tx, step.person).await?;
                let new = NewFollowUp {
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
}
