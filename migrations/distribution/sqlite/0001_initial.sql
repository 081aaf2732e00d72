-- The distribution programme. At most two levels are ever paid: the schema refuses a third.

-- How the programme is run. A row is never edited: a newer version takes its place from then on.
create table programme_setting (
    setting_id INTEGER primary key,
    tenant_id INTEGER not null,
    version INTEGER not null check (version > 0),
    binding_mode TEXT not null check (binding_mode in ('first_bind', 'registration', 'every_scan')),
    binding_days INTEGER check (binding_days between 1 and 3650),
    levels INTEGER not null check (levels in (1, 2)),
    cap_bp INTEGER not null check (cap_bp between 0 and 10000),
    freeze_days INTEGER not null check (freeze_days between 0 and 180),
    campaign_lines_earn BOOLEAN not null check (campaign_lines_earn in (0, 1)),
    self_purchase_earns BOOLEAN not null check (self_purchase_earns in (0, 1)),
    tax_regime TEXT not null check (tax_regime in ('platform_cumulative', 'per_payment')),
    payout_min_fen INTEGER not null check (payout_min_fen > 0),
    link_base TEXT not null check (link_base <> ''),
    created_by TEXT not null,
    created_at TIMESTAMP not null,
    unique (tenant_id, version)
);

-- root_id and depth never change: nobody gets another parent.
create table distributor (
    distributor_id INTEGER primary key,
    tenant_id INTEGER not null,
    person_id INTEGER not null,
    parent_id INTEGER references distributor (distributor_id),
    kind TEXT not null check (kind in ('person', 'pharmacy', 'institution')),
    name TEXT not null check (name <> ''),
    active BOOLEAN not null check (active in (0, 1)),
    created_at TIMESTAMP not null,
    status TEXT not null check (status in ('applied', 'active', 'rejected', 'suspended', 'left')),
    root_id INTEGER not null,
    depth INTEGER not null check (depth >= 0),
    tax_regime TEXT check (tax_regime in ('platform_cumulative', 'per_payment', 'none')),
    version INTEGER not null,
    updated_at TIMESTAMP not null,
    unique (tenant_id, person_id),
    check (parent_id <> distributor_id),
    check (active = (status = 'active')),
    check ((parent_id is null) = (root_id = distributor_id)),
    check ((parent_id is null) = (depth = 0))
);

create index distributor_parent on distributor (parent_id);
create index distributor_root on distributor (root_id, status);

create table distributor_change (
    change_id INTEGER primary key,
    tenant_id INTEGER not null,
    distributor_id INTEGER not null references distributor (distributor_id),
    status TEXT not null check (status in ('applied', 'active', 'rejected', 'suspended', 'left')),
    reason TEXT not null,
    changed_by TEXT not null,
    changed_at TIMESTAMP not null
);

create index distributor_change_of on distributor_change (distributor_id, change_id);

create table tree_alert (
    alert_id INTEGER primary key,
    tenant_id INTEGER not null,
    root_id INTEGER not null references distributor (distributor_id),
    reason TEXT not null check (reason in ('depth', 'people')),
    depth INTEGER not null,
    people INTEGER not null,
    status TEXT not null check (status in ('open', 'resolved')),
    note TEXT not null,
    resolved_by TEXT,
    raised_at TIMESTAMP not null,
    resolved_at TIMESTAMP,
    unique (root_id, reason),
    check ((status = 'resolved') = (resolved_at is not null))
);

create table share_link (
    link_id INTEGER primary key,
    tenant_id INTEGER not null,
    distributor_id INTEGER not null references distributor (distributor_id),
    code TEXT not null unique check (code <> ''),
    product_id INTEGER,
    page TEXT check (page like '/%'),
    campaign TEXT,
    created_at TIMESTAMP not null,
    ended_at TIMESTAMP,
    check ((product_id is null) <> (page is null))
);

create index share_link_distributor on share_link (distributor_id, link_id);

create table touch (
    touch_id INTEGER primary key,
    tenant_id INTEGER not null,
    link_id INTEGER not null references share_link (link_id),
    distributor_id INTEGER not null references distributor (distributor_id),
    door TEXT not null check (door in ('link', 'qr_code')),
    person_id INTEGER,
    visitor TEXT,
    touched_at TIMESTAMP not null
);

create index touch_link on touch (link_id, touch_id);

create table binding (
    binding_id INTEGER primary key,
    tenant_id INTEGER not null,
    person_id INTEGER not null,
    distributor_id INTEGER not null references distributor (distributor_id),
    bound_at TIMESTAMP not null,
    unbound_at TIMESTAMP check (unbound_at >= bound_at),
    expires_at TIMESTAMP check (expires_at > bound_at),
    cause TEXT not null check (cause in ('scan', 'registration')),
    link_id INTEGER references share_link (link_id),
    check (unbound_at <= expires_at)
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

-- What the mall told of a line of an order with a promoter, whichever came first.
create table order_line_state (
    order_line_id INTEGER primary key,
    tenant_id INTEGER not null,
    order_id INTEGER not null,
    refunded_fen INTEGER not null check (refunded_fen >= 0),
    refund_id INTEGER,
    refunded_at TIMESTAMP,
    received_at TIMESTAMP,
    returnable_until TIMESTAMP
);

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
    status TEXT not null check (status in ('frozen', 'released', 'reversed')),
    accrued_at TIMESTAMP not null,
    updated_at TIMESTAMP not null,
    cap_bp INTEGER not null check (cap_bp between 0 and 10000),
    freeze_days INTEGER not null check (freeze_days >= 0),
    release_at TIMESTAMP,
    released_at TIMESTAMP,
    unique (order_line_id, level),
    check ((status = 'reversed') = (reversed_fen = booked_fen)),
    check (status <> 'frozen' or released_at is null),
    check (status <> 'released' or released_at is not null),
    check (released_at is null or release_at is not null)
);

create index commission_order on commission (order_id);
create index commission_beneficiary on commission (beneficiary_id, commission_id);
create index commission_release on commission (status, release_at);

-- The ledger: append-only, one row an event, whatever the number of deliveries. A row moves amount_fen
-- from one account of the beneficiary to another, so that what they hold always adds up to what the
-- programme granted ('granted' is the other side of it). What is of no line has line 0 and level 0.
create table commission_entry (
    entry_id INTEGER primary key,
    tenant_id INTEGER not null,
    commission_id INTEGER references commission (commission_id),
    order_line_id INTEGER not null,
    beneficiary_id INTEGER not null references distributor (distributor_id),
    level INTEGER not null check (level in (0, 1, 2)),
    event_type TEXT not null
        check (event_type in ('accrue', 'release', 'reverse', 'payout', 'tax', 'adjust')),
    amount_fen INTEGER not null check (amount_fen <> 0),
    source_event_id TEXT not null,
    occurred_at TIMESTAMP not null,
    from_account TEXT not null,
    to_account TEXT not null,
    unique (order_line_id, beneficiary_id, level, event_type, source_event_id),
    check ((level = 0) = (commission_id is null)),
    check ((level = 0) = (order_line_id = 0)),
    check ((level = 0) = (event_type in ('payout', 'tax', 'adjust'))),
    check ((event_type = 'accrue' and amount_fen > 0 and from_account = 'granted' and to_account = 'frozen')
        or (event_type = 'release' and amount_fen > 0 and from_account = 'frozen' and to_account = 'available')
        or (event_type = 'reverse' and amount_fen < 0 and from_account = 'granted'
            and to_account in ('frozen', 'available'))
        or (event_type = 'payout' and amount_fen > 0 and from_account = 'available' and to_account = 'paid')
        or (event_type = 'tax' and amount_fen > 0 and from_account = 'available' and to_account = 'tax')
        or (event_type = 'adjust' and from_account = 'granted' and to_account = 'available'))
);

create index commission_entry_commission on commission_entry (commission_id);
create index commission_entry_beneficiary on commission_entry (beneficiary_id, entry_id);

create trigger _commission_entry_keeps_history before update on commission_entry
begin
    select raise(abort, 'commission_entry is append-only');
end;

create trigger _commission_entry_keeps_rows before delete on commission_entry
begin
    select raise(abort, 'commission_entry is append-only');
end;

-- What the ledger adds up to, changed with each of its rows. Only what is available may be below zero:
-- more was taken back than was left after a payout.
create table commission_balance (
    beneficiary_id INTEGER primary key references distributor (distributor_id),
    tenant_id INTEGER not null,
    frozen_fen INTEGER not null check (frozen_fen >= 0),
    available_fen INTEGER not null,
    paid_fen INTEGER not null check (paid_fen >= 0),
    tax_fen INTEGER not null check (tax_fen >= 0),
    updated_at TIMESTAMP not null
);

create table adjustment (
    adjustment_id INTEGER primary key,
    tenant_id INTEGER not null,
    beneficiary_id INTEGER not null references distributor (distributor_id),
    amount_fen INTEGER not null check (amount_fen <> 0),
    reason TEXT not null check (reason <> ''),
    made_by TEXT not null,
    created_at TIMESTAMP not null
);

-- What a beneficiary is owed for a month, once.
create table settlement (
    settlement_id INTEGER primary key,
    tenant_id INTEGER not null,
    period TEXT not null,
    beneficiary_id INTEGER not null references distributor (distributor_id),
    amount_fen INTEGER not null check (amount_fen > 0),
    status TEXT not null check (status in ('open', 'paid')),
    created_at TIMESTAMP not null,
    paid_at TIMESTAMP,
    unique (tenant_id, period, beneficiary_id),
    check ((status = 'paid') = (paid_at is not null))
);

create index settlement_beneficiary on settlement (beneficiary_id, status);

create table payout (
    payout_id INTEGER primary key,
    tenant_id INTEGER not null,
    settlement_id INTEGER not null references settlement (settlement_id),
    beneficiary_id INTEGER not null references distributor (distributor_id),
    payout_number TEXT not null unique,
    channel TEXT not null check (channel <> ''),
    tax_regime TEXT not null check (tax_regime in ('platform_cumulative', 'per_payment', 'none')),
    taxed_month TEXT not null,
    amount_fen INTEGER not null check (amount_fen > 0),
    tax_fen INTEGER not null check (tax_fen >= 0),
    net_fen INTEGER not null check (net_fen > 0),
    status TEXT not null check (status in ('pending', 'paid', 'failed')),
    created_at TIMESTAMP not null,
    finished_at TIMESTAMP,
    check (amount_fen = tax_fen + net_fen),
    check ((status = 'pending') = (finished_at is null))
);

create unique index payout_current on payout (settlement_id) where status <> 'failed';
create index payout_beneficiary on payout (beneficiary_id, taxed_month);

-- What the channel says it paid. A record that fits no payout says why, for a person to look at.
create table channel_record (
    channel_record_id INTEGER primary key,
    tenant_id INTEGER not null,
    channel TEXT not null check (channel <> ''),
    trade_number TEXT not null check (trade_number <> ''),
    payout_number TEXT not null,
    amount_fen INTEGER not null check (amount_fen > 0),
    outcome TEXT not null check (outcome in ('succeeded', 'failed')),
    occurred_at TIMESTAMP not null,
    recorded_at TIMESTAMP not null,
    payout_id INTEGER references payout (payout_id),
    problem TEXT,
    unique (tenant_id, channel, trade_number),
    check ((payout_id is null) = (problem is not null))
);

create index channel_record_payout on channel_record (payout_id);

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
