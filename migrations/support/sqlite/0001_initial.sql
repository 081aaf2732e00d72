-- Notifications, files and settings. Not captured: nothing of it leaves the database.

-- Settings that were set, per tenant, and every change of one.
create table setting (
    setting_id INTEGER primary key,
    tenant_id INTEGER not null,
    setting_key TEXT not null,
    value TEXT,
    version INTEGER not null,
    changed_at TIMESTAMP not null,
    changed_by TEXT not null,
    unique (tenant_id, setting_key)
);

create table setting_change (
    change_id INTEGER primary key,
    tenant_id INTEGER not null,
    setting_key TEXT not null,
    value TEXT,
    version INTEGER not null,
    changed_at TIMESTAMP not null,
    changed_by TEXT not null,
    unique (tenant_id, setting_key, version)
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
