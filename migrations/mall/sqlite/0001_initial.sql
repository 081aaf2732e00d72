-- The mall. Money is integer fen, times are microseconds UTC, every row has its tenant.

create table pharmacy (
    pharmacy_id INTEGER primary key,
    tenant_id INTEGER not null,
    name TEXT not null check (name <> ''),
    region TEXT not null,
    created_at TIMESTAMP not null
);

create table product (
    product_id INTEGER primary key,
    tenant_id INTEGER not null,
    name TEXT not null check (name <> ''),
    kind TEXT not null check (kind in ('otc', 'rx', 'device', 'gene_test', 'other')),
    category TEXT not null,
    brand TEXT,
    drug_code TEXT,
    drug_class TEXT,
    days_supply_per_unit INTEGER check (days_supply_per_unit > 0),
    unit_price_fen INTEGER not null check (unit_price_fen >= 0),
    return_policy TEXT not null check (return_policy in ('seven_day', 'quality_only')),
    created_at TIMESTAMP not null,
    updated_at TIMESTAMP not null,
    check ((drug_code is null) = (drug_class is null))
);

create table coupon (
    coupon_id INTEGER primary key,
    tenant_id INTEGER not null,
    name TEXT not null check (name <> ''),
    kind TEXT not null check (kind in ('full_reduction', 'percent')),
    threshold_fen INTEGER not null check (threshold_fen >= 0),
    discount_fen INTEGER check (discount_fen > 0),
    percent INTEGER check (percent between 1 and 100),
    cap_fen INTEGER check (cap_fen > 0),
    category TEXT,
    funder TEXT not null check (funder in ('merchant', 'platform')),
    starts_at TIMESTAMP not null,
    ends_at TIMESTAMP not null check (ends_at > starts_at),
    created_at TIMESTAMP not null,
    check ((kind = 'full_reduction') = (discount_fen is not null)),
    check ((kind = 'percent') = (percent is not null))
);

create table orders (
    order_id INTEGER primary key,
    tenant_id INTEGER not null,
    person_id INTEGER not null,
    pharmacy_id INTEGER not null references pharmacy (pharmacy_id),
    channel TEXT not null check (channel in ('app', 'mini_program', 'h5', 'pharmacy')),
    promoter_id INTEGER,
    coupon_id INTEGER references coupon (coupon_id),
    status TEXT not null check (status in ('created', 'paid', 'closed')),
    list_amount_fen INTEGER not null,
    goods_amount_fen INTEGER not null,
    discount_fen INTEGER not null,
    shipping_fen INTEGER not null check (shipping_fen >= 0),
    payable_fen INTEGER not null,
    refunded_fen INTEGER not null check (refunded_fen >= 0),
    created_at TIMESTAMP not null,
    paid_at TIMESTAMP,
    closed_at TIMESTAMP,
    check (payable_fen = goods_amount_fen - discount_fen + shipping_fen),
    check ((status = 'paid') = (paid_at is not null)),
    check ((status = 'closed') = (closed_at is not null)),
    check (refunded_fen = 0 or status = 'paid')
);

-- cash_fen may be below zero on recorded lines only: a till lets a coupon be worth more than its line.
create table order_line (
    order_line_id INTEGER primary key,
    tenant_id INTEGER not null,
    order_id INTEGER not null references orders (order_id),
    line_number INTEGER not null check (line_number > 0),
    product_id INTEGER not null references product (product_id),
    quantity INTEGER not null check (quantity >= 0),
    unit_price_fen INTEGER not null,
    list_amount_fen INTEGER not null,
    disc_item_fen INTEGER not null,
    line_amount_fen INTEGER not null,
    disc_full_reduction_fen INTEGER not null,
    disc_coupon_merchant_fen INTEGER not null,
    disc_coupon_platform_fen INTEGER not null,
    disc_points_fen INTEGER not null,
    cash_fen INTEGER not null,
    refunded_quantity INTEGER not null,
    refunded_fen INTEGER not null,
    unique (order_id, line_number),
    check (line_amount_fen = list_amount_fen - disc_item_fen),
    check (cash_fen = line_amount_fen - disc_full_reduction_fen - disc_coupon_merchant_fen
        - disc_coupon_platform_fen - disc_points_fen),
    check (refunded_quantity between 0 and quantity),
    check (refunded_fen between 0 and max(cash_fen, 0))
);

create table payment (
    payment_id INTEGER primary key,
    tenant_id INTEGER not null,
    order_id INTEGER not null unique references orders (order_id),
    amount_fen INTEGER not null,
    method TEXT not null check (method <> ''),
    paid_at TIMESTAMP not null
);

create table refund (
    refund_id INTEGER primary key,
    tenant_id INTEGER not null,
    order_id INTEGER not null references orders (order_id),
    amount_fen INTEGER not null check (amount_fen >= 0),
    reason TEXT not null,
    status TEXT not null check (status in ('succeeded')),
    requested_at TIMESTAMP not null,
    succeeded_at TIMESTAMP not null
);

create index refund_order on refund (order_id);

create table refund_line (
    refund_line_id INTEGER primary key,
    tenant_id INTEGER not null,
    refund_id INTEGER not null references refund (refund_id),
    order_line_id INTEGER not null references order_line (order_line_id),
    quantity INTEGER not null check (quantity > 0),
    amount_fen INTEGER not null check (amount_fen >= 0),
    unique (refund_id, order_line_id)
);

-- What other services must hear, written in the transaction of the fact itself: a row for each service
-- that listens. A delivered row is deleted. One that is refused for good is kept with its error for a
-- person to look at, and those of the same aggregate wait behind it.
create table outbox (
    outbox_id INTEGER primary key autoincrement,
    consumer TEXT not null,
    event_type TEXT not null,
    tenant_id INTEGER not null,
    aggregate_key TEXT not null,
    payload TEXT not null,
    traceparent TEXT,
    created_at TIMESTAMP not null,
    failed_at TIMESTAMP,
    error TEXT
);

create index outbox_due on outbox (consumer, outbox_id);

create index outbox_refused on outbox (consumer, aggregate_key, outbox_id) where failed_at is not null;

-- One row a finished request that carried an Idempotency-Key: the same key and request get the same
-- answer again, another request under the key is refused.
create table idempotency (
    tenant_id INTEGER not null,
    idempotency_key TEXT not null,
    request TEXT not null,
    http_status INTEGER not null,
    response TEXT not null,
    created_at TIMESTAMP not null,
    primary key (tenant_id, idempotency_key)
) without rowid;

create index idempotency_created_at on idempotency (created_at);

-- Change capture: filled by generated triggers in the writer's own transaction, read and trimmed by
-- the ingest side. Tables whose names start with "_", "cdc_", "outbox" or "idempotency" are not captured.
create table cdc_transaction (
    tx_id integer primary key autoincrement,
    committed_at TIMESTAMP not null
);

create table cdc_change (
    change_id integer primary key autoincrement,
    tx_id integer not null,
    table_name text not null,
    op text not null check (op in ('c', 'u', 'd')),
    before text,
    after text
);

create table cdc_trimmed (
    only_row integer primary key check (only_row = 1),
    trimmed_to integer not null
);

insert into cdc_trimmed (only_row, trimmed_to) values (1, 0);
