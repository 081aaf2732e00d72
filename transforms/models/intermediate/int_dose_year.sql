select
    p.tenant_id,
    p.patient_id,
    p.person_id,
    p.condition,
    m.drug_class,
    cast(date_part('year', business_day(e.scheduled_at)) as bigint) as period_year,
    count(*) as doses_due,
    count(*) filter (where e.status = 'taken') as doses_taken,
    count(*) filter (where e.status = 'late') as doses_late,
    count(*) filter (where e.status = 'missed') as doses_missed
from stg_patient p
inner join chronic_care.dose_event e on e.patient_id = p.patient_id
inner join chronic_care.medication_plan m on m.plan_id = e.plan_id
group by 1, 2, 3, 4, 5, 6
