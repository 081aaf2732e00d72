-- The distribution programme. At most two levels are ever paid: the schema refuses a third.

create table distributor (
    distributor_id INTEGER primary key,
    tenant_id INTEGER not null,
    person_id INTEGER not null,
    parent_id INTEGER references distributor (distributor_id),
    kind TEXT not null check (kind in ('person', 'pharmacy', 'institution')),
    name TEXT not null check (name <> ''),
    active BOOLEAN not null check (active in (0, 1)),
    created_at TIMESTAMP not null,
    unique (tenant_id, person_id),
    check (parent_id <> distributor_id)
);

create index distributor_parent on distributor (parent_id);

create table binding (
    binding_id INTEGER primary key,
    tenant_id INTEGER not null,
    person_id INTEGER not null,
    distributor_id INTEGER not null references distributor (distributor_id),
    bound_at TIMESTAMP not null,
    unbound_at TIMESTAMP check (unbound_at >= bound_at)
);

create unique index binding_current on binding (tenant_id, person_id) where unbound_at is null;
create index binding_person on binding (tenant_id, person_id, bound_at);

create table commission_rule (
    rule_id INTEGER primary key,
    tenant_id INTEGER not null,
    product_id INTEGER,
    level INTEGER not null check (level in (1, 2)),
    rate_bp INTEGER check (rate_bp between 0 and 10000),
    fixed_fen INTEGER check (fixed_fen >= 0),
    created_at TIMESTAMP not null
);

create index commission_rule_product on commission_rule (tenant_id, product_id, level, created_at);

create table commission (
    commission_id INTEGER primary key,
    tenant_id INTEGER not null,
    order_id INTEGER not null,
    order_line_id INTEGER not null,
    beneficiary_id INTEGER not null references distributor (distributor_id),
    level INTEGER not null check (level in (1, 2)),
    base_fen INTEGER not null check (base_fen > 0),
    rate_bp INTEGER,
    fixed_fen INTEGER,
    booked_fen INTEGER not null check (booked_fen between 1 and base_fen),
    reversed_fen INTEGER not null check (reversed_fen between 0 and booked_fen),
    status TEXT not null check (status in ('frozen', 'reversed')),
    accrued_at TIMESTAMP not null,
    updated_at TIMESTAMP not null,
    unique (order_line_id, level),
    check ((status = 'reversed') = (reversed_fen = booked_fen))
);

create index commission_order on commission (order_id);

-- The ledger: append-only, one row an event, whatever the number of deliveries.
create table commission_entry (
    entry_id INTEGER primary key,
    tenant_id INTEGER not null,
    commission_id INTEGER not null references commission (commission_id),
    order_line_id INTEGER not null,
    beneficiary_id INTEGER not null references distributor (distributor_id),
    level INTEGER not null check (level in (1, 2)),
    event_type TEXT not null check (event_type in ('accrue', 'reverse')),
    amount_fen INTEGER not null,
    source_event_id TEXT not null,
    occurred_at TIMESTAMP not null,
    unique (order_line_id, beneficiary_id, level, event_type, source_event_id),
    check ((event_type = 'accrue' and amount_fen > 0) or (event_type = 'reverse' and amount_fen < 0))
);

create index commission_entry_commission on commission_entry (commission_id);

create trigger _commission_entry_keeps_history before update on commission_entry
begin
    select raise(abort, 'commission_entry is append-only');
end;

create trigger _commission_entry_keeps_rows before delete on commission_entry
begin
    select raise(abort, 'commission_entry is append-only');
end;

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
