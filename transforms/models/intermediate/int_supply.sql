select
    p.tenant_id,
    p.patient_id,
    p.person_id,
    p.condition,
    d.drug_class,
    d.drug_code,
    d.dispensed_on,
    d.days_supply
from stg_patient p
inner join chronic_care.dispensing d on d.patient_id = p.patient_id
