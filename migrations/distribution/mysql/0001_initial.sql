-- The distribution programme. At most two levels are ever paid: the schema refuses a third.

create table if not exists distributor (
    distributor_id bigint primary key,
    tenant_id bigint not null,
    person_id bigint not null,
    parent_id bigint,
    kind varchar(32) not null,
    name varchar(255) not null,
    active bit(1) not null,
    created_at datetime(6) not null,
    foreign key (parent_id) references distributor (distributor_id),
    check (kind in ('person', 'pharmacy', 'institution')),
    check (name <> ''),
    unique (tenant_id, person_id),
    check (parent_id <> distributor_id),
    index distributor_parent (parent_id)
);

create table if not exists binding (
    binding_id bigint primary key,
    tenant_id bigint not null,
    person_id bigint not null,
    distributor_id bigint not null,
    bound_at datetime(6) not null,
    unbound_at datetime(6),
    current_person_id bigint as (case when unbound_at is null then person_id end) virtual,
    foreign key (distributor_id) references distributor (distributor_id),
    check (unbound_at >= bound_at),
    index binding_person (tenant_id, person_id, bound_at),
    unique (tenant_id, current_person_id)
);

create table if not exists commission_rule (
    rule_id bigint primary key,
    tenant_id bigint not null,
    product_id bigint,
    level bigint not null,
    rate_bp bigint,
    fixed_fen bigint,
    created_at datetime(6) not null,
    check (level in (1, 2)),
    check (rate_bp between 0 and 10000),
    check (fixed_fen >= 0),
    index commission_rule_product (tenant_id, product_id, level, created_at)
);

create table if not exists commission (
    commission_id bigint primary key,
    tenant_id bigint not null,
    order_id bigint not null,
    order_line_id bigint not null,
    beneficiary_id bigint not null,
    level bigint not null,
    base_fen bigint not null,
    rate_bp bigint,
    fixed_fen bigint,
    booked_fen bigint not null,
    reversed_fen bigint not null,
    status varchar(32) not null,
    accrued_at datetime(6) not null,
    updated_at datetime(6) not null,
    foreign key (beneficiary_id) references distributor (distributor_id),
    check (level in (1, 2)),
    check (base_fen > 0),
    check (booked_fen between 1 and base_fen),
    check (reversed_fen between 0 and booked_fen),
    check (status in ('frozen', 'reversed')),
    unique (order_line_id, level),
    check ((status = 'reversed') = (reversed_fen = booked_fen)),
    index commission_order (order_id)
);

-- The ledger: append-only, one row an event, whatever the number of deliveries.
create table if not exists commission_entry (
    entry_id bigint primary key,
    tenant_id bigint not null,
    commission_id bigint not null,
    order_line_id bigint not null,
    beneficiary_id bigint not null,
    level bigint not null,
    event_type varchar(32) not null,
    amount_fen bigint not null,
    source_event_id varchar(255) not null,
    occurred_at datetime(6) not null,
    foreign key (commission_id) references commission (commission_id),
    foreign key (beneficiary_id) references distributor (distributor_id),
    check (level in (1, 2)),
    check (event_type in ('accrue', 'reverse')),
    unique (order_line_id, beneficiary_id, level, event_type, source_event_id),
    check ((event_type = 'accrue' and amount_fen > 0) or (event_type = 'reverse' and amount_fen < 0)),
    index commission_entry_commission (commission_id)
);

create or replace trigger _commission_entry_keeps_history before update on commission_entry
for each row signal sqlstate '45000' set message_text = 'commission_entry is append-only';

create or replace trigger _commission_entry_keeps_rows before delete on commission_entry
for each row signal sqlstate '45000' set message_text = 'commission_entry is append-only';

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
