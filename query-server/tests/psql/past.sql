show medlake.as_of;
select count(*) from mall.orders;
set medlake.as_of = '2000-01-01T00:00:00Z';
show medlake.as_of;
select count(*) from mall.orders;
select count(*) from mall.everything;
\d mall.orders
set medlake.as_of = 'soon';
set medlake.as_of = 7;
select count(*) from mall.orders;
reset medlake.as_of;
select count(*) from mall.orders;
select count(orders.order_id) from mall.orders for system_time as of '2000-01-01';
select count(o.order_id) from mall.orders for timestamp as of '2000-01-01' o;
select o.region from mall.orders o for system_time as of '2000-01-01';
select region from mall.orders for system_time as of now();
select * from mall.orders for version as of 'nothing';
select * from changes('mall.orders', '2000-01-01') order by order_id;
select * from changes('mall.orders');
