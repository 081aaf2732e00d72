\l
\dn
\dt
\dt marts.*
\dt nothing.*
\d marts.gmv_minute
\d+ mall.orders
\d mall.nothing
\df nothing.*
\dv
\di
\du
select table_schema, table_name from information_schema.tables where table_schema in ('mall', 'marts') order by 1, 2;
select column_name, data_type, is_nullable from information_schema.columns where table_name = 'orders' order by ordinal_position;
select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = 'marts' order by 1;
