-- The mall. Money is integer fen, times are microseconds UTC, every row has its tenant.

create table if not exists pharmacy (
    pharmacy_id bigint primary key,
    tenant_id bigint not null,
    name varchar(255) not null,
    region varchar(255) not null,
    created_at datetime(6) not null,
    check (name <> '')
);

create table if not exists product (
    product_id bigint primary key,
    tenant_id bigint not null,
    name varchar(255) not null,
    kind varchar(32) not null,
    category varchar(255) not null,
    brand varchar(255),
    drug_code varchar(255),
    drug_class varchar(255),
    days_supply_per_unit bigint,
    unit_price_fen bigint not null,
    return_policy varchar(32) not null,
    created_at datetime(6) not null,
    updated_at datetime(6) not null,
    check (name <> ''),
    check (kind in ('otc', 'rx', 'device', 'gene_test', 'other')),
    check (days_supply_per_unit > 0),
    check (unit_price_fen >= 0),
    check (return_policy in ('seven_day', 'quality_only')),
    check ((drug_code is null) = (drug_class is null))
);

create table if not exists coupon (
    coupon_id bigint primary key,
    tenant_id bigint not null,
    name varchar(255) not null,
    kind varchar(32) not null,
    threshold_fen bigint not null,
    discount_fen bigint,
    percent bigint,
    cap_fen bigint,
    category varchar(255),
    funder varchar(32) not null,
    starts_at datetime(6) not null,
    ends_at datetime(6) not null,
    created_at datetime(6) not null,
    check (name <> ''),
    check (kind in ('full_reduction', 'percent')),
    check (threshold_fen >= 0),
    check (discount_fen > 0),
    check (percent between 1 and 100),
    check (cap_fen > 0),
    check (funder in ('merchant', 'platform')),
    check (ends_at > starts_at),
    check ((kind = 'full_reduction') = (discount_fen is not null)),
    check ((kind = 'percent') = (percent is not null))
);

create table if not exists orders (
    order_id bigint primary key,
    tenant_id bigint not null,
    person_id bigint not null,
    pharmacy_id bigint not null,
    channel varchar(32) not null,
    promoter_id bigint,
    coupon_id bigint,
    status varchar(32) not null,
    list_amount_fen bigint not null,
    goods_amount_fen bigint not null,
    discount_fen bigint not null,
    shipping_fen bigint not null,
    payable_fen bigint not null,
    refunded_fen bigint not null,
    created_at datetime(6) not null,
    paid_at datetime(6),
    closed_at datetime(6),
    foreign key (pharmacy_id) references pharmacy (pharmacy_id),
    check (channel in ('app', 'mini_program', 'h5', 'pharmacy')),
    foreign key (coupon_id) references coupon (coupon_id),
    check (status in ('created', 'paid', 'closed')),
    check (shipping_fen >= 0),
    check (refunded_fen >= 0),
    check (payable_fen = goods_amount_fen - discount_fen + shipping_fen),
    check ((status = 'paid') = (paid_at is not null)),
    check ((status = 'closed') = (closed_at is not null)),
    check (refunded_fen = 0 or status = 'paid')
);

-- cash_fen may be below zero on recorded lines only: a till lets a coupon be worth more than its line.
create table if not exists order_line (
    order_line_id bigint primary key,
    tenant_id bigint not null,
    order_id bigint not null,
    line_number bigint not null,
    product_id bigint not null,
    quantity bigint not null,
    unit_price_fen bigint not null,
    list_amount_fen bigint not null,
    disc_item_fen bigint not null,
    line_amount_fen bigint not null,
    disc_full_reduction_fen bigint not null,
    disc_coupon_merchant_fen bigint not null,
    disc_coupon_platform_fen bigint not null,
    disc_points_fen bigint not null,
    cash_fen bigint not null,
    refunded_quantity bigint not null,
    refunded_fen bigint not null,
    foreign key (order_id) references orders (order_id),
    check (line_number > 0),
    foreign key (product_id) references product (product_id),
    check (quantity >= 0),
    unique (order_id, line_number),
    check (line_amount_fen = list_amount_fen - disc_item_fen),
    check (cash_fen = line_amount_fen - disc_full_reduction_fen - disc_coupon_merchant_fen - disc_coupon_platform_fen - disc_points_fen),
    check (refunded_quantity between 0 and quantity),
    check (refunded_fen between 0 and greatest(cash_fen, 0))
);

create table if not exists payment (
    payment_id bigint primary key,
    tenant_id bigint not null,
    order_id bigint not null unique,
    amount_fen bigint not null,
    method varchar(32) not null,
    paid_at datetime(6) not null,
    foreign key (order_id) references orders (order_id),
    check (method <> '')
);

create table if not exists refund (
    refund_id bigint primary key,
    tenant_id bigint not null,
    order_id bigint not null,
    amount_fen bigint not null,
    reason longtext not null,
    status varchar(32) not null,
    requested_at datetime(6) not null,
    succeeded_at datetime(6) not null,
    foreign key (order_id) references orders (order_id),
    check (amount_fen >= 0),
    check (status in ('succeeded')),
    index refund_order (order_id)
);

create table if not exists refund_line (
    refund_line_id bigint primary key,
    tenant_id bigint not null,
    refund_id bigint not null,
    order_line_id bigint not null,
    quantity bigint not null,
    amount_fen bigint not null,
    foreign key (refund_id) references refund (refund_id),
    foreign key (order_line_id) references order_line (order_line_id),
    check (quantity > 0),
    check (amount_fen >= 0),
    unique (refund_id, order_line_id)
);

-- What other services must hear, written in the transaction of the fact itself: a row for each service
-- that listens. A delivered row is deleted. One that is refused for good is kept with its error for a
-- person to look at, and those of the same aggregate wait behind it.
create table if not exists outbox (
    outbox_id bigint primary key auto_increment,
    consumer varchar(64) not null,
    event_type varchar(64) not null,
    tenant_id bigint not null,
    aggregate_key varchar(128) not null,
    payload longtext not null,
    traceparent varchar(64),
    created_at datetime(6) not null,
    failed_at datetime(6),
    error longtext,
    index outbox_due (consumer, outbox_id),
    index outbox_refused (consumer, aggregate_key, failed_at)
);

-- One row a finished request that carried an Idempotency-Key: the same key and request get the same
-- answer again, another request under the key is refused.
create table if not exists idempotency (
    tenant_id bigint not null,
    idempotency_key varchar(255) not null,
    request longtext not null,
    http_status bigint not null,
    response longtext not null,
    created_at datetime(6) not null,
    primary key (tenant_id, idempotency_key),
    index idempotency_created_at (created_at)
);
