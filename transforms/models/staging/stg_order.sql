select
    order_id,
    tenant_id,
    person_id,
    pharmacy_id,
    channel,
    goods_amount_fen,
    goods_amount_fen - discount_fen as cash_fen,
    shipping_fen,
    refunded_fen,
    business_day(created_at) as created_day,
    paid_at is not null as paid,
    business_day(paid_at) as paid_day,
    minute_of(paid_at) as paid_minute
from mall.orders
