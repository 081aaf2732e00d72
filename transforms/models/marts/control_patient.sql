with follow_up as (
    select
        tenant_id,
        patient_id,
        count(*) as follow_ups,
        max(performed_at) as last_follow_up_at,
        last_value(coalesce(on_target, false) order by performed_at, follow_up_id) as on_target
    from chronic_care.follow_up
    group by tenant_id, patient_id
),
recent as (
    select
        r.tenant_id,
        r.patient_id,
        count(*) as readings_30d
    from chronic_care.reading r
    cross join int_control_day d
    where r.quality = 'ok' and business_day(r.measured_at) > d.as_of_day - interval '30 days'
    group by r.tenant_id, r.patient_id
)
select
    p.tenant_id,
    p.patient_id,
    p.condition,
    f.last_follow_up_at,
    coalesce(f.follow_ups, 0) as follow_ups,
    p.active and coalesce(f.on_target, false) as on_target,
    coalesce(r.readings_30d, 0) as readings_30d
from stg_patient p
left join follow_up f on f.tenant_id = p.tenant_id and f.patient_id = p.patient_id
left join recent r on r.tenant_id = p.tenant_id and r.patient_id = p.patient_id
