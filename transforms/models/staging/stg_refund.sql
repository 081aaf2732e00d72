select
    refund_id,
    tenant_id,
    order_id,
    amount_fen,
    business_day(succeeded_at) as refund_day,
    minute_of(succeeded_at) as refund_minute
from mall.refund
where status = 'succeeded'
