select
    l.tenant_id,
    o.paid_day,
    o.pharmacy_id,
    o.channel,
    l.product_id,
    l.quantity,
    l.list_amount_fen,
    l.disc_item_fen,
    l.line_amount_fen,
    l.disc_merchant_fen,
    l.disc_platform_fen,
    l.cash_fen
from stg_order o
inner join stg_order_line l on l.order_id = o.order_id
where o.paid
