-- The mall. Money is integer fen, times are microseconds UTC, every row has its tenant.

create table pharmacy (
    pharmacy_id INTEGER primary key,
    tenant_id INTEGER not null,
    name TEXT not null check (name <> ''),
    region TEXT not null,
    shipping_fen INTEGER not null check (shipping_fen >= 0),
    free_shipping_from_fen INTEGER check (free_shipping_from_fen >= 0),
    active BOOLEAN not null check (active in (0, 1)),
    version INTEGER not null check (version > 0),
    created_at TIMESTAMP not null,
    updated_at TIMESTAMP not null
);

create table product (
    product_id INTEGER primary key,
    tenant_id INTEGER not null,
    name TEXT not null check (name <> ''),
    kind TEXT not null check (kind in ('otc', 'rx', 'device', 'gene_test', 'supplement', 'other')),
    otc_class TEXT check (otc_class in ('a', 'b')),
    category TEXT not null,
    brand TEXT,
    atc_code TEXT,
    drug_code TEXT,
    drug_class TEXT,
    days_supply_per_unit INTEGER check (days_supply_per_unit > 0),
    unit_price_fen INTEGER not null check (unit_price_fen >= 0),
    return_policy TEXT not null check (return_policy in ('seven_day', 'quality_only')),
    active BOOLEAN not null check (active in (0, 1)),
    version INTEGER not null check (version > 0),
    created_at TIMESTAMP not null,
    updated_at TIMESTAMP not null,
    check ((drug_code is null) = (drug_class is null)),
    check (otc_class is null or kind = 'otc')
);

-- What is sold as one unit. Number 1 of a product is its default, whose price is the product's.
create table product_variant (
    variant_id INTEGER primary key,
    tenant_id INTEGER not null,
    product_id INTEGER not null references product (product_id),
    variant_number INTEGER not null check (variant_number > 0),
    sku TEXT not null check (sku <> ''),
    spec TEXT not null,
    unit_price_fen INTEGER not null check (unit_price_fen >= 0),
    days_supply_per_unit INTEGER check (days_supply_per_unit > 0),
    tracks_stock BOOLEAN not null check (tracks_stock in (0, 1)),
    active BOOLEAN not null check (active in (0, 1)),
    version INTEGER not null check (version > 0),
    created_at TIMESTAMP not null,
    updated_at TIMESTAMP not null,
    unique (tenant_id, sku),
    unique (product_id, variant_number),
    unique (product_id, variant_id)
);

-- What a variant cost before, and since when it costs something else. Lines of orders keep their prices.
create table variant_price_change (
    variant_price_change_id INTEGER primary key,
    tenant_id INTEGER not null,
    variant_id INTEGER not null references product_variant (variant_id),
    version INTEGER not null,
    old_unit_price_fen INTEGER not null,
    new_unit_price_fen INTEGER not null check (new_unit_price_fen >= 0),
    changed_by TEXT not null,
    changed_at TIMESTAMP not null,
    unique (variant_id, version)
);

-- What a pharmacy has of a variant. Units of orders that are not shipped are reserved.
create table stock (
    stock_id INTEGER primary key,
    tenant_id INTEGER not null,
    pharmacy_id INTEGER not null references pharmacy (pharmacy_id),
    variant_id INTEGER not null references product_variant (variant_id),
    on_hand INTEGER not null check (on_hand >= 0),
    reserved INTEGER not null,
    updated_at TIMESTAMP not null,
    unique (pharmacy_id, variant_id),
    check (reserved between 0 and on_hand)
);

-- Full reductions over a basket (满减) and cuts in the price of items, for a time.
create table campaign (
    campaign_id INTEGER primary key,
    tenant_id INTEGER not null,
    name TEXT not null check (name <> ''),
    kind TEXT not null check (kind in ('item_price', 'full_reduction')),
    funder TEXT not null check (funder in ('merchant', 'platform')),
    pharmacy_id INTEGER references pharmacy (pharmacy_id),
    category TEXT,
    unit_limit INTEGER check (unit_limit > 0),
    unit_limit_per_person INTEGER check (unit_limit_per_person > 0),
    sold_units INTEGER not null check (sold_units >= 0),
    starts_at TIMESTAMP not null,
    ends_at TIMESTAMP not null,
    created_at TIMESTAMP not null,
    check (ends_at >= starts_at),
    check (unit_limit is null or sold_units <= unit_limit),
    check (kind = 'item_price' or (unit_limit is null and unit_limit_per_person is null))
);

create table campaign_tier (
    campaign_tier_id INTEGER primary key,
    tenant_id INTEGER not null,
    campaign_id INTEGER not null references campaign (campaign_id),
    threshold_fen INTEGER not null check (threshold_fen > 0),
    discount_fen INTEGER not null check (discount_fen >= 0),
    gift_variant_id INTEGER references product_variant (variant_id),
    gift_quantity INTEGER check (gift_quantity > 0),
    unique (campaign_id, threshold_fen),
    check (discount_fen <= threshold_fen),
    check (discount_fen > 0 or gift_variant_id is not null),
    check ((gift_variant_id is null) = (gift_quantity is null))
);

-- What a campaign is for. With a price or a percentage in one that cuts prices; alone in the other.
create table campaign_item (
    campaign_item_id INTEGER primary key,
    tenant_id INTEGER not null,
    campaign_id INTEGER not null references campaign (campaign_id),
    product_id INTEGER not null references product (product_id),
    variant_id INTEGER references product_variant (variant_id),
    unit_price_fen INTEGER check (unit_price_fen >= 0),
    percent_off INTEGER check (percent_off between 1 and 100),
    unique (campaign_id, product_id, variant_id),
    check (unit_price_fen is null or percent_off is null)
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
    claim_needed BOOLEAN not null check (claim_needed in (0, 1)),
    claim_limit INTEGER check (claim_limit > 0),
    claim_limit_per_person INTEGER check (claim_limit_per_person > 0),
    claim_valid_days INTEGER check (claim_valid_days > 0),
    claimed_count INTEGER not null check (claimed_count >= 0),
    starts_at TIMESTAMP not null,
    ends_at TIMESTAMP not null check (ends_at >= starts_at),
    created_at TIMESTAMP not null,
    check (claim_limit is null or claimed_count <= claim_limit),
    check ((kind = 'full_reduction') = (discount_fen is not null)),
    check ((kind = 'percent') = (percent is not null))
);

-- What a doctor prescribed and a pharmacist reviewed. Units are used as they are ordered.
create table prescription (
    prescription_id INTEGER primary key,
    tenant_id INTEGER not null,
    person_id INTEGER not null,
    doctor_reference TEXT not null check (doctor_reference <> ''),
    signature_reference TEXT not null check (signature_reference <> ''),
    status TEXT not null check (status in ('issued', 'approved', 'rejected', 'used')),
    issued_at TIMESTAMP not null,
    valid_until TIMESTAMP not null,
    reviewed_by TEXT,
    reviewed_at TIMESTAMP,
    review_note TEXT,
    created_at TIMESTAMP not null,
    unique (tenant_id, signature_reference),
    check (valid_until > issued_at),
    check ((status = 'issued') = (reviewed_at is null)),
    check ((reviewed_by is null) = (reviewed_at is null))
);

create index prescription_person on prescription (tenant_id, person_id);

create table prescription_item (
    prescription_item_id INTEGER primary key,
    tenant_id INTEGER not null,
    prescription_id INTEGER not null references prescription (prescription_id),
    product_id INTEGER not null references product (product_id),
    quantity INTEGER not null check (quantity > 0),
    used_quantity INTEGER not null,
    directions TEXT,
    unique (prescription_id, product_id),
    check (used_quantity between 0 and quantity)
);

-- A session of someone who looks around, known or not.
create table visit (
    visit_id INTEGER primary key,
    tenant_id INTEGER not null,
    visitor_key TEXT not null check (visitor_key <> ''),
    person_id INTEGER,
    channel TEXT not null check (channel in ('app', 'mini_program', 'h5', 'pharmacy')),
    referrer TEXT,
    campaign_code TEXT,
    share_code TEXT,
    started_at TIMESTAMP not null,
    last_seen_at TIMESTAMP not null,
    check (last_seen_at >= started_at)
);

create index visit_visitor on visit (tenant_id, visitor_key, started_at);
create index visit_person on visit (tenant_id, person_id, started_at);

create table page_view (
    page_view_id INTEGER primary key,
    tenant_id INTEGER not null,
    visit_id INTEGER not null references visit (visit_id),
    page TEXT not null check (page in ('home', 'list', 'product', 'cart', 'checkout', 'other')),
    product_id INTEGER references product (product_id),
    viewed_at TIMESTAMP not null
);

create index page_view_visit on page_view (visit_id);

create table orders (
    order_id INTEGER primary key,
    tenant_id INTEGER not null,
    person_id INTEGER not null,
    pharmacy_id INTEGER not null references pharmacy (pharmacy_id),
    channel TEXT not null check (channel in ('app', 'mini_program', 'h5', 'pharmacy')),
    promoter_id INTEGER,
    coupon_id INTEGER references coupon (coupon_id),
    prescription_id INTEGER references prescription (prescription_id),
    status TEXT not null
        check (status in ('created', 'paid', 'shipped', 'received', 'completed', 'closed')),
    list_amount_fen INTEGER not null,
    goods_amount_fen INTEGER not null,
    discount_fen INTEGER not null,
    shipping_fen INTEGER not null check (shipping_fen >= 0),
    payable_fen INTEGER not null,
    refunded_fen INTEGER not null check (refunded_fen >= 0),
    refunded_shipping_fen INTEGER not null,
    points INTEGER not null,
    reward_points INTEGER not null,
    carrier TEXT,
    tracking_number TEXT,
    close_reason TEXT check (close_reason in ('cancelled', 'expired', 'refunded')),
    visit_id INTEGER references visit (visit_id),
    touch_visit_id INTEGER references visit (visit_id),
    touch_kind TEXT check (touch_kind in ('referral', 'campaign')),
    created_at TIMESTAMP not null,
    paid_at TIMESTAMP,
    shipped_at TIMESTAMP,
    received_at TIMESTAMP,
    completed_at TIMESTAMP,
    closed_at TIMESTAMP,
    due_at TIMESTAMP,
    check (payable_fen = goods_amount_fen - discount_fen + shipping_fen),
    check (status <> 'created' or paid_at is null),
    check (status in ('created', 'closed') or paid_at is not null),
    check (status in ('created', 'paid', 'closed') or shipped_at is not null),
    check (status in ('created', 'paid', 'shipped', 'closed') or received_at is not null),
    check ((status = 'completed') = (completed_at is not null)),
    check ((status = 'closed') = (closed_at is not null)),
    check ((closed_at is null) = (close_reason is null)),
    check (refunded_shipping_fen between 0 and shipping_fen),
    check (points >= 0 and reward_points >= 0),
    check (refunded_fen + refunded_shipping_fen = 0 or paid_at is not null),
    check ((touch_visit_id is null) = (touch_kind is null))
);

create index orders_person on orders (tenant_id, person_id);
-- When the next step is taken by itself: closed if not paid, received if shipped, completed if received.
create index orders_due on orders (due_at) where due_at is not null;

create table order_status_change (
    order_status_change_id INTEGER primary key,
    tenant_id INTEGER not null,
    order_id INTEGER not null references orders (order_id),
    from_status TEXT,
    to_status TEXT not null,
    reason TEXT,
    changed_at TIMESTAMP not null,
    unique (order_id, to_status)
);

create table coupon_claim (
    coupon_claim_id INTEGER primary key,
    tenant_id INTEGER not null,
    coupon_id INTEGER not null references coupon (coupon_id),
    person_id INTEGER not null,
    status TEXT not null check (status in ('claimed', 'redeemed')),
    order_id INTEGER references orders (order_id),
    claimed_at TIMESTAMP not null,
    expires_at TIMESTAMP not null,
    redeemed_at TIMESTAMP,
    check ((status = 'redeemed') = (order_id is not null)),
    check ((order_id is null) = (redeemed_at is null))
);

create index coupon_claim_person on coupon_claim (tenant_id, person_id, coupon_id);
create index coupon_claim_order on coupon_claim (order_id);

-- cash_fen may be below zero on recorded lines only: a till lets a coupon be worth more than its line.
create table order_line (
    order_line_id INTEGER primary key,
    tenant_id INTEGER not null,
    order_id INTEGER not null references orders (order_id),
    line_number INTEGER not null check (line_number > 0),
    product_id INTEGER not null references product (product_id),
    variant_id INTEGER not null references product_variant (variant_id),
    gift BOOLEAN not null check (gift in (0, 1)),
    return_window_days INTEGER not null check (return_window_days >= 0),
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
    refunding_quantity INTEGER not null,
    refunding_fen INTEGER not null,
    points INTEGER not null,
    reward_points INTEGER not null,
    refunded_points INTEGER not null,
    refunding_points INTEGER not null,
    unique (order_id, line_number),
    foreign key (product_id, variant_id) references product_variant (product_id, variant_id),
    check (line_amount_fen = list_amount_fen - disc_item_fen),
    check (cash_fen = line_amount_fen - disc_full_reduction_fen - disc_coupon_merchant_fen
        - disc_coupon_platform_fen - disc_points_fen),
    check (gift = 0 or line_amount_fen = 0),
    check (refunded_quantity >= 0 and refunding_quantity >= 0),
    check (refunded_fen >= 0 and refunding_fen >= 0),
    check (points >= 0 and reward_points >= 0),
    check (refunded_points >= 0 and refunding_points >= 0),
    check (refunded_points + refunding_points <= points),
    check (refunded_quantity + refunding_quantity <= quantity),
    check (refunded_fen + refunding_fen <= max(cash_fen, 0))
);

-- Where each discount of a line comes from and who pays for it; they sum to those of the line.
create table order_line_discount (
    order_line_discount_id INTEGER primary key,
    tenant_id INTEGER not null,
    order_id INTEGER not null references orders (order_id),
    order_line_id INTEGER not null references order_line (order_line_id),
    kind TEXT not null check (kind in ('item', 'full_reduction', 'coupon', 'points')),
    funder TEXT not null check (funder in ('merchant', 'platform')),
    campaign_id INTEGER references campaign (campaign_id),
    coupon_id INTEGER references coupon (coupon_id),
    amount_fen INTEGER not null check (amount_fen >= 0),
    check ((kind = 'coupon') = (coupon_id is not null)),
    check ((kind in ('coupon', 'points')) = (campaign_id is null)),
    check (kind <> 'points' or funder = 'platform')
);

create index order_line_discount_line on order_line_discount (order_line_id);
create index order_line_discount_campaign on order_line_discount (campaign_id);

-- Every change of a stock, which they sum to.
create table stock_movement (
    stock_movement_id INTEGER primary key,
    tenant_id INTEGER not null,
    pharmacy_id INTEGER not null references pharmacy (pharmacy_id),
    variant_id INTEGER not null references product_variant (variant_id),
    kind TEXT not null
        check (kind in ('receipt', 'adjustment', 'reserve', 'release', 'shipment', 'return')),
    on_hand_change INTEGER not null,
    reserved_change INTEGER not null,
    order_line_id INTEGER references order_line (order_line_id),
    reason TEXT,
    created_at TIMESTAMP not null,
    check (kind not in ('reserve', 'release') or on_hand_change = 0),
    check (kind not in ('receipt', 'adjustment', 'return') or reserved_change = 0),
    check (kind not in ('reserve', 'release', 'shipment', 'return') or order_line_id is not null)
);

create index stock_movement_of on stock_movement (pharmacy_id, variant_id);
create index stock_movement_line on stock_movement (order_line_id);

-- paid_order_id is the order if it paid it: one payment does. What came for an order that was closed or
-- paid already is on its way back, or is back.
create table payment (
    payment_id INTEGER primary key,
    tenant_id INTEGER not null,
    order_id INTEGER not null references orders (order_id),
    paid_order_id INTEGER unique,
    amount_fen INTEGER not null,
    method TEXT not null check (method <> ''),
    status TEXT not null check (status in ('succeeded', 'returning', 'returned')),
    channel_transaction_id TEXT,
    return_reason TEXT check (return_reason in ('order_closed', 'paid_twice')),
    channel_refund_id TEXT,
    paid_at TIMESTAMP not null,
    returned_at TIMESTAMP,
    unique (tenant_id, method, channel_transaction_id),
    check ((status = 'succeeded') = (return_reason is null)),
    check ((status = 'succeeded') = (paid_order_id is not null)),
    check (paid_order_id = order_id),
    check ((status = 'returned') = (returned_at is not null))
);

create index payment_order on payment (order_id);

create table refund (
    refund_id INTEGER primary key,
    tenant_id INTEGER not null,
    order_id INTEGER not null references orders (order_id),
    amount_fen INTEGER not null check (amount_fen >= 0),
    shipping_fen INTEGER not null check (shipping_fen >= 0),
    points INTEGER not null check (points >= 0),
    cause TEXT not null check (cause in ('no_reason', 'quality', 'wrong_item', 'not_delivered')),
    reason TEXT not null,
    status TEXT not null
        check (status in ('requested', 'approved', 'rejected', 'succeeded', 'failed')),
    restock BOOLEAN not null check (restock in (0, 1)),
    note TEXT,
    channel_refund_id TEXT,
    requested_at TIMESTAMP not null,
    decided_at TIMESTAMP,
    succeeded_at TIMESTAMP,
    failed_at TIMESTAMP,
    unique (tenant_id, channel_refund_id),
    check ((status = 'requested') = (decided_at is null)),
    check ((status = 'succeeded') = (succeeded_at is not null)),
    check ((status = 'failed') = (failed_at is not null))
);

create index refund_order on refund (order_id);

create table refund_line (
    refund_line_id INTEGER primary key,
    tenant_id INTEGER not null,
    refund_id INTEGER not null references refund (refund_id),
    order_line_id INTEGER not null references order_line (order_line_id),
    quantity INTEGER not null check (quantity >= 0),
    amount_fen INTEGER not null check (amount_fen >= 0),
    points INTEGER not null check (points >= 0),
    unique (refund_id, order_line_id),
    check (quantity > 0 or amount_fen > 0)
);

-- What a person has of points, and what became of the others: granted = available + spent + expired -
-- owed. What is taken back after it was spent is owed, and paid by what is earned next.
create table points_account (
    points_account_id INTEGER primary key,
    tenant_id INTEGER not null,
    person_id INTEGER not null,
    available_points INTEGER not null check (available_points >= 0),
    spent_points INTEGER not null check (spent_points >= 0),
    expired_points INTEGER not null check (expired_points >= 0),
    owed_points INTEGER not null check (owed_points >= 0),
    updated_at TIMESTAMP not null,
    unique (tenant_id, person_id)
);

-- Points that were granted together, and how many of them are left. due_at is when those expire.
create table points_lot (
    points_lot_id INTEGER primary key,
    tenant_id INTEGER not null,
    points_account_id INTEGER not null references points_account (points_account_id),
    order_id INTEGER references orders (order_id),
    granted_points INTEGER not null check (granted_points > 0),
    available_points INTEGER not null,
    expires_at TIMESTAMP not null,
    due_at TIMESTAMP,
    created_at TIMESTAMP not null,
    check (available_points between 0 and granted_points),
    check ((available_points = 0) = (due_at is null)),
    check (due_at = expires_at)
);

create index points_lot_account on points_lot (points_account_id, expires_at);
create index points_lot_due on points_lot (due_at) where due_at is not null;

-- Every change of an account, which they sum to: points go from one place to another. Append-only.
create table points_entry (
    points_entry_id INTEGER primary key,
    tenant_id INTEGER not null,
    points_account_id INTEGER not null references points_account (points_account_id),
    points_lot_id INTEGER references points_lot (points_lot_id),
    order_id INTEGER references orders (order_id),
    event_type TEXT not null check (event_type in ('earn', 'settle', 'spend', 'give_back', 'take_back',
        'expire', 'adjust')),
    points INTEGER not null check (points > 0),
    from_place TEXT not null
        check (from_place in ('granted', 'available', 'spent', 'expired', 'owed')),
    to_place TEXT not null check (to_place in ('granted', 'available', 'spent', 'expired', 'owed')),
    cause TEXT,
    reason TEXT,
    actor TEXT not null,
    occurred_at TIMESTAMP not null,
    unique (points_account_id, event_type, cause, points_lot_id),
    check ((event_type = 'earn' and from_place = 'granted' and to_place = 'available')
        or (event_type = 'settle' and from_place = 'available' and to_place = 'owed')
        or (event_type = 'spend' and from_place = 'available' and to_place = 'spent')
        or (event_type = 'give_back' and from_place = 'spent' and to_place = 'available')
        or (event_type = 'take_back' and from_place in ('available', 'owed') and to_place = 'granted')
        or (event_type = 'expire' and from_place = 'available' and to_place = 'expired')
        or (event_type = 'adjust' and from_place = 'granted' and to_place = 'available')
        or (event_type = 'adjust' and from_place = 'available' and to_place = 'granted')),
    check ((points_lot_id is not null) = (from_place = 'available' or to_place = 'available')),
    check ((event_type in ('adjust', 'expire')) = (cause is null))
);

create index points_entry_order on points_entry (order_id);
create index points_entry_lot on points_entry (points_lot_id);

create trigger _points_entry_keeps_history before update on points_entry
begin
    select raise(abort, 'points_entry is append-only');
end;

create trigger _points_entry_keeps_rows before delete on points_entry
begin
    select raise(abort, 'points_entry is append-only');
end;

create table cart_line (
    cart_line_id INTEGER primary key,
    tenant_id INTEGER not null,
    person_id INTEGER not null,
    pharmacy_id INTEGER not null references pharmacy (pharmacy_id),
    variant_id INTEGER not null references product_variant (variant_id),
    quantity INTEGER not null check (quantity > 0),
    selected BOOLEAN not null check (selected in (0, 1)),
    created_at TIMESTAMP not null,
    updated_at TIMESTAMP not null,
    unique (tenant_id, person_id, pharmacy_id, variant_id)
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
