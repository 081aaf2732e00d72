-- The distribution programme. At most two levels are ever paid: the schema refuses a third.

-- How the programme is run. A row is never edited: a newer version takes its place from then on.
create table if not exists programme_setting (
    setting_id bigint primary key,
    tenant_id bigint not null,
    version bigint not null,
    binding_mode varchar(32) not null,
    binding_days bigint,
    levels bigint not null,
    cap_bp bigint not null,
    freeze_days bigint not null,
    campaign_lines_earn bit(1) not null,
    self_purchase_earns bit(1) not null,
    tax_regime varchar(32) not null,
    payout_min_fen bigint not null,
    link_base varchar(255) not null,
    created_by varchar(64) not null,
    created_at datetime(6) not null,
    check (version > 0),
    check (binding_mode in ('first_bind', 'registration', 'every_scan')),
    check (binding_days between 1 and 3650),
    check (levels in (1, 2)),
    check (cap_bp between 0 and 10000),
    check (freeze_days between 0 and 180),
    check (tax_regime in ('platform_cumulative', 'per_payment')),
    check (payout_min_fen > 0),
    check (link_base <> ''),
    unique (tenant_id, version)
);

-- root_id and depth never change: nobody gets another parent.
create table if not exists distributor (
    distributor_id bigint primary key,
    tenant_id bigint not null,
    person_id bigint not null,
    parent_id bigint,
    kind varchar(32) not null,
    name varchar(255) not null,
    active bit(1) not null,
    created_at datetime(6) not null,
    status varchar(32) not null,
    root_id bigint not null,
    depth bigint not null,
    tax_regime varchar(32),
    version bigint not null,
    updated_at datetime(6) not null,
    foreign key (parent_id) references distributor (distributor_id),
    check (kind in ('person', 'pharmacy', 'institution')),
    check (name <> ''),
    check (status in ('applied', 'active', 'rejected', 'suspended', 'left')),
    check (depth >= 0),
    check (tax_regime in ('platform_cumulative', 'per_payment', 'none')),
    unique (tenant_id, person_id),
    check (parent_id <> distributor_id),
    check (active = (status = 'active')),
    check ((parent_id is null) = (root_id = distributor_id)),
    check ((parent_id is null) = (depth = 0)),
    index distributor_parent (parent_id),
    index distributor_root (root_id, status)
);

create table if not exists distributor_change (
    change_id bigint primary key,
    tenant_id bigint not null,
    distributor_id bigint not null,
    status varchar(32) not null,
    reason varchar(255) not null,
    changed_by varchar(64) not null,
    changed_at datetime(6) not null,
    foreign key (distributor_id) references distributor (distributor_id),
    check (status in ('applied', 'active', 'rejected', 'suspended', 'left')),
    index distributor_change_of (distributor_id, change_id)
);

create table if not exists tree_alert (
    alert_id bigint primary key,
    tenant_id bigint not null,
    root_id bigint not null,
    reason varchar(32) not null,
    depth bigint not null,
    people bigint not null,
    status varchar(32) not null,
    note varchar(255) not null,
    resolved_by varchar(64),
    raised_at datetime(6) not null,
    resolved_at datetime(6),
    foreign key (root_id) references distributor (distributor_id),
    check (reason in ('depth', 'people')),
    check (status in ('open', 'resolved')),
    unique (root_id, reason),
    check ((status = 'resolved') = (resolved_at is not null))
);

create table if not exists share_link (
    link_id bigint primary key,
    tenant_id bigint not null,
    distributor_id bigint not null,
    code varchar(32) not null unique,
    product_id bigint,
    page varchar(255),
    campaign varchar(255),
    created_at datetime(6) not null,
    ended_at datetime(6),
    foreign key (distributor_id) references distributor (distributor_id),
    check (code <> ''),
    check (page like '/%'),
    check ((product_id is null) <> (page is null)),
    index share_link_distributor (distributor_id, link_id)
);

create table if not exists touch (
    touch_id bigint primary key,
    tenant_id bigint not null,
    link_id bigint not null,
    distributor_id bigint not null,
    door varchar(32) not null,
    person_id bigint,
    visitor varchar(255),
    touched_at datetime(6) not null,
    foreign key (link_id) references share_link (link_id),
    foreign key (distributor_id) references distributor (distributor_id),
    check (door in ('link', 'qr_code')),
    index touch_link (link_id, touch_id)
);

create table if not exists binding (
    binding_id bigint primary key,
    tenant_id bigint not null,
    person_id bigint not null,
    distributor_id bigint not null,
    bound_at datetime(6) not null,
    unbound_at datetime(6),
    expires_at datetime(6),
    cause varchar(32) not null,
    link_id bigint,
    current_person_id bigint as (case when unbound_at is null then person_id end) virtual,
    foreign key (distributor_id) references distributor (distributor_id),
    foreign key (link_id) references share_link (link_id),
    check (unbound_at >= bound_at),
    check (expires_at > bound_at),
    check (cause in ('scan', 'registration')),
    check (unbound_at <= expires_at),
    unique (tenant_id, current_person_id),
    index binding_person (tenant_id, person_id, bound_at)
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

-- What the mall told of a line of an order with a promoter, whichever came first.
create table if not exists order_line_state (
    order_line_id bigint primary key,
    tenant_id bigint not null,
    order_id bigint not null,
    refunded_fen bigint not null,
    refund_id bigint,
    refunded_at datetime(6),
    received_at datetime(6),
    returnable_until datetime(6),
    check (refunded_fen >= 0)
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
    cap_bp bigint not null,
    freeze_days bigint not null,
    release_at datetime(6),
    released_at datetime(6),
    foreign key (beneficiary_id) references distributor (distributor_id),
    check (level in (1, 2)),
    check (base_fen > 0),
    check (booked_fen between 1 and base_fen),
    check (reversed_fen between 0 and booked_fen),
    check (status in ('frozen', 'released', 'reversed')),
    check (cap_bp between 0 and 10000),
    check (freeze_days >= 0),
    unique (order_line_id, level),
    check ((status = 'reversed') = (reversed_fen = booked_fen)),
    check (status <> 'frozen' or released_at is null),
    check (status <> 'released' or released_at is not null),
    check (released_at is null or release_at is not null),
    index commission_order (order_id),
    index commission_beneficiary (beneficiary_id, commission_id),
    index commission_release (status, release_at)
);

-- The ledger: append-only, one row an event, whatever the number of deliveries. A row moves amount_fen
-- from one account of the beneficiary to another, so that what they hold always adds up to what the
-- programme granted ('granted' is the other side of it). What is of no line has line 0 and level 0.
create table if not exists commission_entry (
    entry_id bigint primary key,
    tenant_id bigint not null,
    commission_id bigint,
    order_line_id bigint not null,
    beneficiary_id bigint not null,
    level bigint not null,
    event_type varchar(32) not null,
    amount_fen bigint not null,
    source_event_id varchar(255) not null,
    occurred_at datetime(6) not null,
    from_account varchar(255) not null,
    to_account varchar(255) not null,
    foreign key (commission_id) references commission (commission_id),
    foreign key (beneficiary_id) references distributor (distributor_id),
    check (level in (0, 1, 2)),
    check (event_type in ('accrue', 'release', 'reverse', 'payout', 'tax', 'adjust')),
    check (amount_fen <> 0),
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
        or (event_type = 'adjust' and from_account = 'granted' and to_account = 'available')),
    index commission_entry_commission (commission_id),
    index commission_entry_beneficiary (beneficiary_id, entry_id)
);

create or replace trigger _commission_entry_keeps_history before update on commission_entry
for each row signal sqlstate '45000' set message_text = 'commission_entry is append-only';

create or replace trigger _commission_entry_keeps_rows before delete on commission_entry
for each row signal sqlstate '45000' set message_text = 'commission_entry is append-only';

-- What the ledger adds up to, changed with each of its rows. Only what is available may be below zero:
-- more was taken back than was left after a payout.
create table if not exists commission_balance (
    beneficiary_id bigint primary key,
    tenant_id bigint not null,
    frozen_fen bigint not null,
    available_fen bigint not null,
    paid_fen bigint not null,
    tax_fen bigint not null,
    updated_at datetime(6) not null,
    foreign key (beneficiary_id) references distributor (distributor_id),
    check (frozen_fen >= 0),
    check (paid_fen >= 0),
    check (tax_fen >= 0)
);

create table if not exists adjustment (
    adjustment_id bigint primary key,
    tenant_id bigint not null,
    beneficiary_id bigint not null,
    amount_fen bigint not null,
    reason varchar(255) not null,
    made_by varchar(64) not null,
    created_at datetime(6) not null,
    foreign key (beneficiary_id) references distributor (distributor_id),
    check (amount_fen <> 0),
    check (reason <> '')
);

-- What a beneficiary is owed for a month, once.
create table if not exists settlement (
    settlement_id bigint primary key,
    tenant_id bigint not null,
    period varchar(32) not null,
    beneficiary_id bigint not null,
    amount_fen bigint not null,
    status varchar(32) not null,
    created_at datetime(6) not null,
    paid_at datetime(6),
    foreign key (beneficiary_id) references distributor (distributor_id),
    check (amount_fen > 0),
    check (status in ('open', 'paid')),
    unique (tenant_id, period, beneficiary_id),
    check ((status = 'paid') = (paid_at is not null)),
    index settlement_beneficiary (beneficiary_id, status)
);

create table if not exists payout (
    payout_id bigint primary key,
    tenant_id bigint not null,
    settlement_id bigint not null,
    beneficiary_id bigint not null,
    payout_number varchar(64) not null unique,
    channel varchar(64) not null,
    tax_regime varchar(32) not null,
    taxed_month varchar(32) not null,
    amount_fen bigint not null,
    tax_fen bigint not null,
    net_fen bigint not null,
    status varchar(32) not null,
    created_at datetime(6) not null,
    finished_at datetime(6),
    current_settlement_id bigint as (case when status <> 'failed' then settlement_id end) virtual,
    foreign key (settlement_id) references settlement (settlement_id),
    foreign key (beneficiary_id) references distributor (distributor_id),
    check (channel <> ''),
    check (tax_regime in ('platform_cumulative', 'per_payment', 'none')),
    check (amount_fen > 0),
    check (tax_fen >= 0),
    check (net_fen > 0),
    check (status in ('pending', 'paid', 'failed')),
    check (amount_fen = tax_fen + net_fen),
    check ((status = 'pending') = (finished_at is null)),
    unique (current_settlement_id),
    index payout_beneficiary (beneficiary_id, taxed_month)
);

-- What the channel says it paid. A record that fits no payout says why, for a person to look at.
create table if not exists channel_record (
    channel_record_id bigint primary key,
    tenant_id bigint not null,
    channel varchar(64) not null,
    trade_number varchar(128) not null,
    payout_number varchar(64) not null,
    amount_fen bigint not null,
    outcome varchar(32) not null,
    occurred_at datetime(6) not null,
    recorded_at datetime(6) not null,
    payout_id bigint,
    problem varchar(255),
    foreign key (payout_id) references payout (payout_id),
    check (channel <> ''),
    check (trade_number <> ''),
    check (amount_fen > 0),
    check (outcome in ('succeeded', 'failed')),
    unique (tenant_id, channel, trade_number),
    check ((payout_id is null) = (problem is not null)),
    index channel_record_payout (payout_id)
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
