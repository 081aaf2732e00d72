-- Notifications, files and settings. Not captured: nothing of it leaves the database.

-- What people and the staff are told. A request is told of once.
create table notification (
    notification_id INTEGER primary key,
    tenant_id INTEGER not null,
    request_key TEXT not null,
    person_id INTEGER,
    template TEXT not null,
    title TEXT not null,
    body TEXT not null,
    created_at TIMESTAMP not null,
    unique (tenant_id, request_key)
);

create index notification_person on notification (tenant_id, person_id);

-- The master keys that rows here are kept under, without their bytes: what tells another key of the same
-- name. A key that holds a row cannot be taken away.
create table _master_key (
    key_id TEXT not null primary key,
    fingerprint TEXT not null,
    created_at TIMESTAMP not null
);

-- Addresses that are told; their secrets are wrapped by a master key.
create table webhook (
    webhook_id INTEGER primary key,
    tenant_id INTEGER not null,
    url TEXT not null,
    state TEXT not null check (state in ('active', 'disabled')),
    master_key_id TEXT not null references _master_key (key_id),
    wrapped_secret BLOB not null,
    created_at TIMESTAMP not null
);

-- A notification on its way by one channel.
create table notification_delivery (
    delivery_id INTEGER primary key,
    tenant_id INTEGER not null,
    notification_id INTEGER not null references notification (notification_id),
    channel TEXT not null check (channel in ('log', 'webhook')),
    webhook_id INTEGER references webhook (webhook_id),
    state TEXT not null check (state in ('pending', 'delivered', 'failed')),
    attempts INTEGER not null,
    next_at TIMESTAMP not null,
    delivered_at TIMESTAMP,
    error TEXT,
    traceparent TEXT,
    check (channel = 'log' or webhook_id is not null)
);

create index notification_delivery_due on notification_delivery (state, next_at);

create index notification_delivery_of on notification_delivery (notification_id);

create table notification_template (
    template_id INTEGER primary key,
    tenant_id INTEGER not null,
    name TEXT not null,
    title TEXT not null,
    body TEXT not null,
    updated_at TIMESTAMP not null,
    version INTEGER not null,
    unique (tenant_id, name)
);

create table notification_preference (
    tenant_id INTEGER not null,
    person_id INTEGER not null,
    channels TEXT not null,
    muted TEXT not null,
    quiet_from_minute INTEGER check (quiet_from_minute between 0 and 1439),
    quiet_to_minute INTEGER check (quiet_to_minute between 0 and 1439),
    version INTEGER not null,
    updated_at TIMESTAMP not null,
    primary key (tenant_id, person_id)
);

-- Files. Their bytes are objects, which several files of the same bytes share.
create table stored_file (
    file_id INTEGER primary key,
    tenant_id INTEGER not null,
    person_id INTEGER,
    name TEXT not null,
    content_type TEXT not null,
    size_bytes INTEGER not null check (size_bytes > 0),
    sha256 TEXT not null,
    object TEXT not null,
    created_at TIMESTAMP not null,
    created_by TEXT not null,
    deleted_at TIMESTAMP
);

create index stored_file_bytes on stored_file (tenant_id, sha256);

create index stored_file_object on stored_file (object);

create index stored_file_person on stored_file (tenant_id, person_id);

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
