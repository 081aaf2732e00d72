-- Notifications, files and settings. Not captured: nothing of it leaves the database.

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
