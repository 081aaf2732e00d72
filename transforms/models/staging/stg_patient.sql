select
    patient_id,
    tenant_id,
    person_id,
    condition,
    status = 'active' as active
from chronic_care.patient
where status not in ('restricted', 'erased')
