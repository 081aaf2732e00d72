with ordered as (
    select
        tenant_id,
        created_day as business_day,
        pharmacy_id,
        channel,
        count(*) as orders_created,
        sum(goods_amount_fen) as gmv_ordered_fen
    from stg_order
    group by tenant_id, created_day, pharmacy_id, channel
),
paid as (
    select
        tenant_id,
        paid_day as business_day,
        pharmacy_id,
        channel,
        count(*) as orders_paid,
        sum(shipping_fen) as shipping_paid_fen,
        sum(refunded_fen) as refund_by_order_cohort_fen
    from stg_order
    where paid
    group by tenant_id, paid_day, pharmacy_id, channel
),
paid_line as (
    select
        tenant_id,
        paid_day as business_day,
        pharmacy_id,
        channel,
        count(*) as lines_paid,
        sum(quantity) as units_paid,
        sum(list_amount_fen) as list_amount_fen,
        sum(line_amount_fen) as gmv_paid_fen,
        sum(disc_item_fen) as disc_item_fen,
        sum(disc_merchant_fen) as disc_merchant_fen,
        sum(disc_platform_fen) as disc_platform_fen,
        sum(cash_fen) as cash_paid_fen
    from int_paid_line
    group by tenant_id, paid_day, pharmacy_id, channel
),
refunded as (
    select
        r.tenant_id,
        r.refund_day as business_day,
        o.pharmacy_id,
        o.channel,
        sum(r.amount_fen) as refund_amount_fen,
        count(distinct r.order_id) as orders_refunded
    from stg_refund r
    inner join stg_order o on o.order_id = r.order_id
    group by r.tenant_id, r.refund_day, o.pharmacy_id, o.channel
),
cell as (
    select tenant_id, business_day, pharmacy_id, channel,
        orders_created, gmv_ordered_fen,
        0 as orders_paid, 0 as shipping_paid_fen, 0 as refund_by_order_cohort_fen,
        0 as lines_paid, 0 as units_paid, 0 as list_amount_fen, 0 as gmv_paid_fen,
        0 as disc_item_fen, 0 as disc_merchant_fen, 0 as disc_platform_fen, 0 as cash_paid_fen,
        0 as refund_amount_fen, 0 as orders_refunded
    from ordered
    union all
    select tenant_id, business_day, pharmacy_id, channel,
        0, 0, orders_paid, shipping_paid_fen, refund_by_order_cohort_fen,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0
    from paid
    union all
    select tenant_id, business_day, pharmacy_id, channel,
        0, 0, 0, 0, 0, lines_paid, units_paid, list_amount_fen, gmv_paid_fen,
        disc_item_fen, disc_merchant_fen, disc_platform_fen, cash_paid_fen, 0, 0
    from paid_line
    union all
    select tenant_id, business_day, pharmacy_id, channel,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, refund_amount_fen, orders_refunded
    from refunded
),
total as (
    select
        tenant_id, business_day, pharmacy_id, channel,
        sum(orders_created) as orders_created,
        sum(gmv_ordered_fen) as gmv_ordered_fen,
        sum(orders_paid) as orders_paid,
        sum(lines_paid) as lines_paid,
        sum(units_paid) as units_paid,
        sum(list_amount_fen) as list_amount_fen,
        sum(gmv_paid_fen) as gmv_paid_fen,
        sum(disc_item_fen) as disc_item_fen,
        sum(disc_merchant_fen) as disc_merchant_fen,
        sum(disc_platform_fen) as disc_platform_fen,
        sum(shipping_paid_fen) as shipping_paid_fen,
        sum(cash_paid_fen) as cash_paid_fen,
        sum(refund_amount_fen) as refund_amount_fen,
        sum(refund_by_order_cohort_fen) as refund_by_order_cohort_fen,
        sum(orders_refunded) as orders_refunded
    from cell
    group by tenant_id, business_day, pharmacy_id, channel
)
select
    t.tenant_id,
    t.business_day,
    t.pharmacy_id,
    t.channel,
    coalesce(p.region, '') as region,
    coalesce(p.name, '') as pharmacy_name,
    t.orders_created,
    t.gmv_ordered_fen,
    t.orders_paid,
    t.lines_paid,
    t.units_paid,
    t.list_amount_fen,
    t.gmv_paid_fen,
    t.disc_item_fen,
    t.disc_merchant_fen,
    t.disc_platform_fen,
    t.shipping_paid_fen,
    t.cash_paid_fen,
    t.refund_amount_fen,
    t.refund_by_order_cohort_fen,
    t.cash_paid_fen - t.refund_amount_fen as net_sales_fen,
    t.orders_refunded
from total t
left join mall.pharmacy p on p.pharmacy_id = t.pharmacy_id
