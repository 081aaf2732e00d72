select
    entry_id,
    tenant_id,
    commission_id,
    beneficiary_id as distributor_id,
    level,
    event_type,
    amount_fen,
    business_day(occurred_at) as business_day
from distribution.commission_entry
where event_type in ('accrue', 'reverse')
