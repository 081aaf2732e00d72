with cell as (
    select
        tenant_id,
        paid_minute as minute,
        count(*) as orders_paid,
        sum(goods_amount_fen) as gmv_paid_fen,
        sum(cash_fen) as cash_paid_fen,
        0 as refund_amount_fen
    from stg_order
    where paid
    group by tenant_id, paid_minute
    union all
    select
        tenant_id,
        refund_minute as minute,
        0 as orders_paid,
        0 as gmv_paid_fen,
        0 as cash_paid_fen,
        sum(amount_fen) as refund_amount_fen
    from stg_refund
    group by tenant_id, refund_minute
)
select
    tenant_id,
    minute,
    sum(orders_paid) as orders_paid,
    sum(gmv_paid_fen) as gmv_paid_fen,
    sum(cash_paid_fen) as cash_paid_fen,
    sum(refund_amount_fen) as refund_amount_fen
from cell
group by tenant_id, minute
