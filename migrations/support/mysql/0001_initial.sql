-- Notifications, files and settings. Not captured: nothing of it leaves the database.

-- What people and the staff are told. A request is told of once.
create table if not exists notification (
    notification_id bigint primary key,
    tenant_id bigint not null,
    request_key varchar(160) not null,
    person_id bigint,
    template varchar(64) not null,
    title longtext not null,
    body longtext not null,
    created_at datetime(6) not null,
    unique (tenant_id, request_key),
    index notification_person (tenant_id, person_id)
);

-- The master keys that rows here are kept under, without their bytes: what tells another key of the same
-- name. A key that holds a row cannot be taken away.
create table if not exists _master_key (
    key_id varchar(32) not null primary key,
    fingerprint varchar(64) not null,
    created_at datetime(6) not null
);

-- Addresses that are told; their secrets are wrapped by a master key.
create table if not exists webhook (
    webhook_id bigint primary key,
    tenant_id bigint not null,
    url longtext not null,
    state varchar(32) not null check (state in ('active', 'disabled')),
    master_key_id varchar(32) not null,
    wrapped_secret longblob not null,
    created_at datetime(6) not null,
    index webhook_tenant (tenant_id),
    foreign key (master_key_id) references _master_key (key_id)
);

-- A notification on its way by one channel.
create table if not exists notification_delivery (
    delivery_id bigint primary key,
    tenant_id bigint not null,
    notification_id bigint not null,
    channel varchar(32) not null check (channel in ('log', 'webhook')),
    webhook_id bigint,
    state varchar(32) not null check (state in ('pending', 'delivered', 'failed')),
    attempts bigint not null,
    next_at datetime(6) not null,
    delivered_at datetime(6),
    error longtext,
    traceparent varchar(64),
    foreign key (notification_id) references notification (notification_id),
    foreign key (webhook_id) references webhook (webhook_id),
    index notification_delivery_due (state, next_at),
    index notification_delivery_of (notification_id),
    check (channel = 'log' or webhook_id is not null)
);

create table if not exists notification_template (
    template_id bigint primary key,
    tenant_id bigint not null,
    name varchar(64) not null,
    title longtext not null,
    body longtext not null,
    updated_at datetime(6) not null,
    version bigint not null,
    unique (tenant_id, name)
);

create table if not exists notification_preference (
    tenant_id bigint not null,
    person_id bigint not null,
    channels longtext not null,
    muted longtext not null,
    quiet_from_minute bigint check (quiet_from_minute between 0 and 1439),
    quiet_to_minute bigint check (quiet_to_minute between 0 and 1439),
    version bigint not null,
    updated_at datetime(6) not null,
    primary key (tenant_id, person_id)
);

-- Files. Their bytes are objects, which several files of the same bytes share.
create table if not exists stored_file (
    file_id bigint primary key,
    tenant_id bigint not null,
    person_id bigint,
    name varchar(255) not null,
    content_type varchar(64) not null,
    size_bytes bigint not null check (size_bytes > 0),
    sha256 varchar(64) not null,
    object varchar(255) not null,
    created_at datetime(6) not null,
    created_by varchar(64) not null,
    deleted_at datetime(6),
    index stored_file_bytes (tenant_id, sha256),
    index stored_file_object (object),
    index stored_file_person (tenant_id, person_id)
);

-- Settings that were set, per tenant, and every change of one.
create table if not exists setting (
    setting_id bigint primary key,
    tenant_id bigint not null,
    setting_key varchar(128) not null,
    value longtext,
    version bigint not null,
    changed_at datetime(6) not null,
    changed_by varchar(64) not null,
    unique (tenant_id, setting_key)
);

create table if not exists setting_change (
    change_id bigint primary key,
    tenant_id bigint not null,
    setting_key varchar(128) not null,
    value longtext,
    version bigint not null,
    changed_at datetime(6) not null,
    changed_by varchar(64) not null,
    unique (tenant_id, setting_key, version)
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
