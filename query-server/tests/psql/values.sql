\pset null '<null>'
\x on
select * from mall.everything order by id;
\x off
select 1::smallint, 2::bigint, 1.5::float8, 1e300::float8, 12.50::numeric(10,2), true, null, 'x', date '2026-11-01', timestamp '2026-11-01 10:00:00', interval '1 day 2 hours';
select array[1, 2, null], array['a b', 'c'];
select region, sum(gmv_paid_fen) from gmv_daily group by region order by 2 desc;
select o.order_id, (select max(p.payable_fen) from mall.orders p where p.region = o.region) as best from mall.orders o order by 1;
select (select max(orders.payable_fen) from mall.orders) as best;
select cast(at + interval '8 hours' as date) as business_day from mall.everything where id = 1;
select order_id from mall.orders where region = '广东';
explain select 1;
values (1, 'a'), (2, 'b');
select 9223372036854775807, -9223372036854775808;
