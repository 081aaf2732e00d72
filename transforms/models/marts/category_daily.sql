with sold as (
    select
        tenant_id,
        paid_day,
        product_id,
        sum(quantity) as units_paid,
        count(*) as lines_paid,
        sum(line_amount_fen) as gmv_paid_fen,
        sum(cash_fen) as cash_paid_fen
    from int_paid_line
    group by tenant_id, paid_day, product_id
)
select
    s.tenant_id,
    s.paid_day as business_day,
    coalesce(p.category, '') as category,
    sum(s.units_paid) as units_paid,
    sum(s.lines_paid) as lines_paid,
    sum(s.gmv_paid_fen) as gmv_paid_fen,
    sum(s.cash_paid_fen) as cash_paid_fen
from sold s
left join mall.product p on p.product_id = s.product_id
group by s.tenant_id, s.paid_day, coalesce(p.category, '')
