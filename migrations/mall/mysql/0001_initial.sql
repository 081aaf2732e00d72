-- The mall. Money is integer fen, times are microseconds UTC, every row has its tenant.

create table if not exists pharmacy (
    pharmacy_id bigint primary key,
    tenant_id bigint not null,
    name varchar(255) not null,
    region varchar(255) not null,
    shipping_fen bigint not null,
    free_shipping_from_fen bigint,
    active bit(1) not null,
    version bigint not null,
    created_at datetime(6) not null,
    updated_at datetime(6) not null,
    check (name <> ''),
    check (shipping_fen >= 0),
    check (free_shipping_from_fen >= 0),
    check (version > 0)
);

create table if not exists product (
    product_id bigint primary key,
    tenant_id bigint not null,
    name varchar(255) not null,
    kind varchar(32) not null,
    otc_class varchar(32),
    category varchar(255) not null,
    brand varchar(255),
    atc_code varchar(255),
    drug_code varchar(255),
    drug_class varchar(255),
    days_supply_per_unit bigint,
    unit_price_fen bigint not null,
    return_policy varchar(32) not null,
    active bit(1) not null,
    version bigint not null,
    created_at datetime(6) not null,
    updated_at datetime(6) not null,
    check (name <> ''),
    check (kind in ('otc', 'rx', 'device', 'gene_test', 'supplement', 'other')),
    check (otc_class in ('a', 'b')),
    check (days_supply_per_unit > 0),
    check (unit_price_fen >= 0),
    check (return_policy in ('seven_day', 'quality_only')),
    check (version > 0),
    check ((drug_code is null) = (drug_class is null)),
    check (otc_class is null or kind = 'otc')
);

-- What is sold as one unit. Number 1 of a product is its default, whose price is the product's.
create table if not exists product_variant (
    variant_id bigint primary key,
    tenant_id bigint not null,
    product_id bigint not null,
    variant_number bigint not null,
    sku varchar(255) not null,
    spec varchar(255) not null,
    unit_price_fen bigint not null,
    days_supply_per_unit bigint,
    tracks_stock bit(1) not null,
    active bit(1) not null,
    version bigint not null,
    created_at datetime(6) not null,
    updated_at datetime(6) not null,
    foreign key (product_id) references product (product_id),
    check (variant_number > 0),
    check (sku <> ''),
    check (unit_price_fen >= 0),
    check (days_supply_per_unit > 0),
    check (version > 0),
    unique (tenant_id, sku),
    unique (product_id, variant_number),
    unique (product_id, variant_id)
);

-- What a variant cost before, and since when it costs something else. Lines of orders keep their prices.
create table if not exists variant_price_change (
    variant_price_change_id bigint primary key,
    tenant_id bigint not null,
    variant_id bigint not null,
    version bigint not null,
    old_unit_price_fen bigint not null,
    new_unit_price_fen bigint not null,
    changed_by varchar(64) not null,
    changed_at datetime(6) not null,
    foreign key (variant_id) references product_variant (variant_id),
    check (new_unit_price_fen >= 0),
    unique (variant_id, version)
);

-- What a pharmacy has of a variant. Units of orders that are not shipped are reserved.
create table if not exists stock (
    stock_id bigint primary key,
    tenant_id bigint not null,
    pharmacy_id bigint not null,
    variant_id bigint not null,
    on_hand bigint not null,
    reserved bigint not null,
    updated_at datetime(6) not null,
    foreign key (pharmacy_id) references pharmacy (pharmacy_id),
    foreign key (variant_id) references product_variant (variant_id),
    check (on_hand >= 0),
    unique (pharmacy_id, variant_id),
    check (reserved between 0 and on_hand)
);

-- Full reductions over a basket (满减) and cuts in the price of items, for a time.
create table if not exists campaign (
    campaign_id bigint primary key,
    tenant_id bigint not null,
    name varchar(255) not null,
    kind varchar(32) not null,
    funder varchar(32) not null,
    pharmacy_id bigint,
    category varchar(255),
    unit_limit bigint,
    unit_limit_per_person bigint,
    sold_units bigint not null,
    starts_at datetime(6) not null,
    ends_at datetime(6) not null,
    created_at datetime(6) not null,
    check (name <> ''),
    check (kind in ('item_price', 'full_reduction')),
    check (funder in ('merchant', 'platform')),
    foreign key (pharmacy_id) references pharmacy (pharmacy_id),
    check (unit_limit > 0),
    check (unit_limit_per_person > 0),
    check (sold_units >= 0),
    check (ends_at >= starts_at),
    check (unit_limit is null or sold_units <= unit_limit),
    check (kind = 'item_price' or (unit_limit is null and unit_limit_per_person is null))
);

create table if not exists campaign_tier (
    campaign_tier_id bigint primary key,
    tenant_id bigint not null,
    campaign_id bigint not null,
    threshold_fen bigint not null,
    discount_fen bigint not null,
    gift_variant_id bigint,
    gift_quantity bigint,
    foreign key (campaign_id) references campaign (campaign_id),
    check (threshold_fen > 0),
    check (discount_fen >= 0),
    foreign key (gift_variant_id) references product_variant (variant_id),
    check (gift_quantity > 0),
    unique (campaign_id, threshold_fen),
    check (discount_fen <= threshold_fen),
    check (discount_fen > 0 or gift_variant_id is not null),
    check ((gift_variant_id is null) = (gift_quantity is null))
);

-- What a campaign is for. With a price or a percentage in one that cuts prices; alone in the other.
create table if not exists campaign_item (
    campaign_item_id bigint primary key,
    tenant_id bigint not null,
    campaign_id bigint not null,
    product_id bigint not null,
    variant_id bigint,
    unit_price_fen bigint,
    percent_off bigint,
    foreign key (campaign_id) references campaign (campaign_id),
    foreign key (product_id) references product (product_id),
    foreign key (variant_id) references product_variant (variant_id),
    check (unit_price_fen >= 0),
    check (percent_off between 1 and 100),
    unique (campaign_id, product_id, variant_id),
    check (unit_price_fen is null or percent_off is null)
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
    claim_needed bit(1) not null,
    claim_limit bigint,
    claim_limit_per_person bigint,
    claim_valid_days bigint,
    claimed_count bigint not null,
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
    check (claim_limit > 0),
    check (claim_limit_per_person > 0),
    check (claim_valid_days > 0),
    check (claimed_count >= 0),
    check (ends_at >= starts_at),
    check (claim_limit is null or claimed_count <= claim_limit),
    check ((kind = 'full_reduction') = (discount_fen is not null)),
    check ((kind = 'percent') = (percent is not null))
);

-- What a doctor prescribed and a pharmacist reviewed. Units are used as they are ordered.
create table if not exists prescription (
    prescription_id bigint primary key,
    tenant_id bigint not null,
    person_id bigint not null,
    doctor_reference varchar(255) not null,
    signature_reference varchar(255) not null,
    status varchar(32) not null,
    issued_at datetime(6) not null,
    valid_until datetime(6) not null,
    reviewed_by varchar(255),
    reviewed_at datetime(6),
    review_note longtext,
    created_at datetime(6) not null,
    check (doctor_reference <> ''),
    check (signature_reference <> ''),
    check (status in ('issued', 'approved', 'rejected', 'used')),
    unique (tenant_id, signature_reference),
    check (valid_until > issued_at),
    check ((status = 'issued') = (reviewed_at is null)),
    check ((reviewed_by is null) = (reviewed_at is null)),
    index prescription_person (tenant_id, person_id)
);

create table if not exists prescription_item (
    prescription_item_id bigint primary key,
    tenant_id bigint not null,
    prescription_id bigint not null,
    product_id bigint not null,
    quantity bigint not null,
    used_quantity bigint not null,
    directions longtext,
    foreign key (prescription_id) references prescription (prescription_id),
    foreign key (product_id) references product (product_id),
    check (quantity > 0),
    unique (prescription_id, product_id),
    check (used_quantity between 0 and quantity)
);

-- A session of someone who looks around, known or not.
create table if not exists visit (
    visit_id bigint primary key,
    tenant_id bigint not null,
    visitor_key varchar(255) not null,
    person_id bigint,
    channel varchar(32) not null,
    referrer longtext,
    campaign_code varchar(255),
    share_code varchar(255),
    started_at datetime(6) not null,
    last_seen_at datetime(6) not null,
    check (visitor_key <> ''),
    check (channel in ('app', 'mini_program', 'h5', 'pharmacy')),
    check (last_seen_at >= started_at),
    index visit_visitor (tenant_id, visitor_key, started_at),
    index visit_person (tenant_id, person_id, started_at)
);

create table if not exists page_view (
    page_view_id bigint primary key,
    tenant_id bigint not null,
    visit_id bigint not null,
    page varchar(32) not null,
    product_id bigint,
    viewed_at datetime(6) not null,
    foreign key (visit_id) references visit (visit_id),
    check (page in ('home', 'list', 'product', 'cart', 'checkout', 'other')),
    foreign key (product_id) references product (product_id),
    index page_view_visit (visit_id)
);

create table if not exists orders (
    order_id bigint primary key,
    tenant_id bigint not null,
    person_id bigint not null,
    pharmacy_id bigint not null,
    channel varchar(32) not null,
    promoter_id bigint,
    coupon_id bigint,
    prescription_id bigint,
    status varchar(32) not null,
    list_amount_fen bigint not null,
    goods_amount_fen bigint not null,
    discount_fen bigint not null,
    shipping_fen bigint not null,
    payable_fen bigint not null,
    refunded_fen bigint not null,
    refunded_shipping_fen bigint not null,
    points bigint not null,
    reward_points bigint not null,
    carrier varchar(255),
    tracking_number varchar(255),
    close_reason varchar(32),
    visit_id bigint,
    touch_visit_id bigint,
    touch_kind varchar(32),
    created_at datetime(6) not null,
    paid_at datetime(6),
    shipped_at datetime(6),
    received_at datetime(6),
    completed_at datetime(6),
    closed_at datetime(6),
    due_at datetime(6),
    foreign key (pharmacy_id) references pharmacy (pharmacy_id),
    check (channel in ('app', 'mini_program', 'h5', 'pharmacy')),
    foreign key (coupon_id) references coupon (coupon_id),
    foreign key (prescription_id) references prescription (prescription_id),
    check (status in ('created', 'paid', 'shipped', 'received', 'completed', 'closed')),
    check (shipping_fen >= 0),
    check (refunded_fen >= 0),
    check (close_reason in ('cancelled', 'expired', 'refunded')),
    foreign key (visit_id) references visit (visit_id),
    foreign key (touch_visit_id) references visit (visit_id),
    check (touch_kind in ('referral', 'campaign')),
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
    check ((touch_visit_id is null) = (touch_kind is null)),
    index orders_person (tenant_id, person_id),
    index orders_due (due_at)
);

create table if not exists order_status_change (
    order_status_change_id bigint primary key,
    tenant_id bigint not null,
    order_id bigint not null,
    from_status varchar(32),
    to_status varchar(32) not null,
    reason longtext,
    changed_at datetime(6) not null,
    foreign key (order_id) references orders (order_id),
    unique (order_id, to_status)
);

create table if not exists coupon_claim (
    coupon_claim_id bigint primary key,
    tenant_id bigint not null,
    coupon_id bigint not null,
    person_id bigint not null,
    status varchar(32) not null,
    order_id bigint,
    claimed_at datetime(6) not null,
    expires_at datetime(6) not null,
    redeemed_at datetime(6),
    foreign key (coupon_id) references coupon (coupon_id),
    check (status in ('claimed', 'redeemed')),
    foreign key (order_id) references orders (order_id),
    check ((status = 'redeemed') = (order_id is not null)),
    check ((order_id is null) = (redeemed_at is null)),
    index coupon_claim_person (tenant_id, person_id, coupon_id),
    index coupon_claim_order (order_id)
);

-- cash_fen may be below zero on recorded lines only: a till lets a coupon be worth more than its line.
create table if not exists order_line (
    order_line_id bigint primary key,
    tenant_id bigint not null,
    order_id bigint not null,
    line_number bigint not null,
    product_id bigint not null,
    variant_id bigint not null,
    gift bit(1) not null,
    return_window_days bigint not null,
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
    refunding_quantity bigint not null,
    refunding_fen bigint not null,
    points bigint not null,
    reward_points bigint not null,
    refunded_points bigint not null,
    refunding_points bigint not null,
    foreign key (order_id) references orders (order_id),
    check (line_number > 0),
    foreign key (product_id) references product (product_id),
    foreign key (variant_id) references product_variant (variant_id),
    check (return_window_days >= 0),
    check (quantity >= 0),
    unique (order_id, line_number),
    foreign key (product_id, variant_id) references product_variant (product_id, variant_id),
    check (line_amount_fen = list_amount_fen - disc_item_fen),
    check (cash_fen = line_amount_fen - disc_full_reduction_fen - disc_coupon_merchant_fen - disc_coupon_platform_fen - disc_points_fen),
    check (gift = 0 or line_amount_fen = 0),
    check (refunded_quantity >= 0 and refunding_quantity >= 0),
    check (refunded_fen >= 0 and refunding_fen >= 0),
    check (points >= 0 and reward_points >= 0),
    check (refunded_points >= 0 and refunding_points >= 0),
    check (refunded_points + refunding_points <= points),
    check (refunded_quantity + refunding_quantity <= quantity),
    check (refunded_fen + refunding_fen <= greatest(cash_fen, 0))
);

-- Where each discount of a line comes from and who pays for it; they sum to those of the line.
create table if not exists order_line_discount (
    order_line_discount_id bigint primary key,
    tenant_id bigint not null,
    order_id bigint not null,
    order_line_id bigint not null,
    kind varchar(32) not null,
    funder varchar(32) not null,
    campaign_id bigint,
    coupon_id bigint,
    amount_fen bigint not null,
    foreign key (order_id) references orders (order_id),
    foreign key (order_line_id) references order_line (order_line_id),
    check (kind in ('item', 'full_reduction', 'coupon', 'points')),
    check (funder in ('merchant', 'platform')),
    foreign key (campaign_id) references campaign (campaign_id),
    foreign key (coupon_id) references coupon (coupon_id),
    check (amount_fen >= 0),
    check ((kind = 'coupon') = (coupon_id is not null)),
    check ((kind in ('coupon', 'points')) = (campaign_id is null)),
    check (kind <> 'points' or funder = 'platform'),
    index order_line_discount_line (order_line_id),
    index order_line_discount_campaign (campaign_id)
);

-- Every change of a stock, which they sum to.
create table if not exists stock_movement (
    stock_movement_id bigint primary key,
    tenant_id bigint not null,
    pharmacy_id bigint not null,
    variant_id bigint not null,
    kind varchar(32) not null,
    on_hand_change bigint not null,
    reserved_change bigint not null,
    order_line_id bigint,
    reason longtext,
    created_at datetime(6) not null,
    foreign key (pharmacy_id) references pharmacy (pharmacy_id),
    foreign key (variant_id) references product_variant (variant_id),
    check (kind in ('receipt', 'adjustment', 'reserve', 'release', 'shipment', 'return')),
    foreign key (order_line_id) references order_line (order_line_id),
    check (kind not in ('reserve', 'release') or on_hand_change = 0),
    check (kind not in ('receipt', 'adjustment', 'return') or reserved_change = 0),
    check (kind not in ('reserve', 'release', 'shipment', 'return') or order_line_id is not null),
    index stock_movement_of (pharmacy_id, variant_id),
    index stock_movement_line (order_line_id)
);

-- paid_order_id is the order if it paid it: one payment does. What came for an order that was closed or
-- paid already is on its way back, or is back.
create table if not exists payment (
    payment_id bigint primary key,
    tenant_id bigint not null,
    order_id bigint not null,
    paid_order_id bigint,
    amount_fen bigint not null,
    method varchar(32) not null,
    status varchar(32) not null,
    channel_transaction_id varchar(255),
    return_reason varchar(32),
    channel_refund_id varchar(255),
    paid_at datetime(6) not null,
    returned_at datetime(6),
    foreign key (order_id) references orders (order_id),
    check (method <> ''),
    check (status in ('succeeded', 'returning', 'returned')),
    check (return_reason in ('order_closed', 'paid_twice')),
    unique (tenant_id, method, channel_transaction_id),
    check ((status = 'succeeded') = (return_reason is null)),
    check ((status = 'returned') = (returned_at is not null)),
    unique (paid_order_id),
    check ((status = 'succeeded') = (paid_order_id is not null)),
    check (paid_order_id = order_id),
    index payment_order (order_id)
);

create table if not exists refund (
    refund_id bigint primary key,
    tenant_id bigint not null,
    order_id bigint not null,
    amount_fen bigint not null,
    shipping_fen bigint not null,
    points bigint not null,
    cause varchar(32) not null,
    reason longtext not null,
    status varchar(32) not null,
    restock bit(1) not null,
    note longtext,
    channel_refund_id varchar(255),
    requested_at datetime(6) not null,
    decided_at datetime(6),
    succeeded_at datetime(6),
    failed_at datetime(6),
    foreign key (order_id) references orders (order_id),
    check (amount_fen >= 0),
    check (shipping_fen >= 0),
    check (points >= 0),
    check (cause in ('no_reason', 'quality', 'wrong_item', 'not_delivered')),
    check (status in ('requested', 'approved', 'rejected', 'succeeded', 'failed')),
    unique (tenant_id, channel_refund_id),
    check ((status = 'requested') = (decided_at is null)),
    check ((status = 'succeeded') = (succeeded_at is not null)),
    check ((status = 'failed') = (failed_at is not null)),
    index refund_order (order_id)
);

create table if not exists refund_line (
    refund_line_id bigint primary key,
    tenant_id bigint not null,
    refund_id bigint not null,
    order_line_id bigint not null,
    quantity bigint not null,
    amount_fen bigint not null,
    points bigint not null,
    foreign key (refund_id) references refund (refund_id),
    foreign key (order_line_id) references order_line (order_line_id),
    check (quantity >= 0),
    check (amount_fen >= 0),
    check (points >= 0),
    unique (refund_id, order_line_id),
    check (quantity > 0 or amount_fen > 0)
);

-- What a person has of points, and what became of the others: granted = available + spent + expired -
-- owed. What is taken back after it was spent is owed, and paid by what is earned next.
create table if not exists points_account (
    points_account_id bigint primary key,
    tenant_id bigint not null,
    person_id bigint not null,
    available_points bigint not null,
    spent_points bigint not null,
    expired_points bigint not null,
    owed_points bigint not null,
    updated_at datetime(6) not null,
    check (available_points >= 0),
    check (spent_points >= 0),
    check (expired_points >= 0),
    check (owed_points >= 0),
    unique (tenant_id, person_id)
);

-- Points that were granted together, and how many of them are left. due_at is when those expire.
create table if not exists points_lot (
    points_lot_id bigint primary key,
    tenant_id bigint not null,
    points_account_id bigint not null,
    order_id bigint,
    granted_points bigint not null,
    available_points bigint not null,
    expires_at datetime(6) not null,
    due_at datetime(6),
    created_at datetime(6) not null,
    foreign key (points_account_id) references points_account (points_account_id),
    foreign key (order_id) references orders (order_id),
    check (granted_points > 0),
    check (available_points between 0 and granted_points),
    check ((available_points = 0) = (due_at is null)),
    check (due_at = expires_at),
    index points_lot_account (points_account_id, expires_at),
    index points_lot_due (due_at)
);

-- Every change of an account, which they sum to: points go from one place to another. Append-only.
create table if not exists points_entry (
    points_entry_id bigint primary key,
    tenant_id bigint not null,
    points_account_id bigint not null,
    points_lot_id bigint,
    order_id bigint,
    event_type varchar(32) not null,
    points bigint not null,
    from_place varchar(32) not null,
    to_place varchar(32) not null,
    cause varchar(64),
    reason longtext,
    actor varchar(64) not null,
    occurred_at datetime(6) not null,
    foreign key (points_account_id) references points_account (points_account_id),
    foreign key (points_lot_id) references points_lot (points_lot_id),
    foreign key (order_id) references orders (order_id),
    check (event_type in ('earn', 'settle', 'spend', 'give_back', 'take_back', 'expire', 'adjust')),
    check (points > 0),
    check (from_place in ('granted', 'available', 'spent', 'expired', 'owed')),
    check (to_place in ('granted', 'available', 'spent', 'expired', 'owed')),
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
    check ((event_type in ('adjust', 'expire')) = (cause is null)),
    index points_entry_order (order_id),
    index points_entry_lot (points_lot_id)
);

create or replace trigger _points_entry_keeps_history before update on points_entry
for each row signal sqlstate '45000' set message_text = 'points_entry is append-only';

create or replace trigger _points_entry_keeps_rows before delete on points_entry
for each row signal sqlstate '45000' set message_text = 'points_entry is append-only';

create table if not exists cart_line (
    cart_line_id bigint primary key,
    tenant_id bigint not null,
    person_id bigint not null,
    pharmacy_id bigint not null,
    variant_id bigint not null,
    quantity bigint not null,
    selected bit(1) not null,
    created_at datetime(6) not null,
    updated_at datetime(6) not null,
    foreign key (pharmacy_id) references pharmacy (pharmacy_id),
    foreign key (variant_id) references product_variant (variant_id),
    check (quantity > 0),
    unique (tenant_id, person_id, pharmacy_id, variant_id)
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
