with booked as (
    select
        e.tenant_id,
        e.business_day,
        e.distributor_id,
        e.level,
        count(distinct e.commission_id) filter (where e.event_type = 'accrue') as lines,
        sum(c.base_fen) filter (where e.event_type = 'accrue') as base_fen,
        sum(e.amount_fen) filter (where e.event_type = 'accrue') as accrued_fen,
        sum(-e.amount_fen) filter (where e.event_type = 'reverse') as reversed_fen
    from stg_commission_entry e
    inner join distribution.commission c on c.commission_id = e.commission_id
    group by e.tenant_id, e.business_day, e.distributor_id, e.level
)
select
    b.tenant_id,
    b.business_day,
    b.distributor_id,
    b.level,
    coalesce(d.name, '') as distributor_name,
    b.lines,
    coalesce(b.base_fen, 0) as base_fen,
    coalesce(b.accrued_fen, 0) as accrued_fen,
    coalesce(b.reversed_fen, 0) as reversed_fen,
    coalesce(b.accrued_fen, 0) - coalesce(b.reversed_fen, 0) as net_fen
from booked b
left join distribution.distributor d on d.distributor_id = b.distributor_id
