-- Who there is, and what they may do. Not captured: nothing of it leaves the database.

-- Who uses the platform: a hospital, a chain of pharmacies. The first is there from the start.
create table tenant (
    tenant_id INTEGER primary key,
    name TEXT not null,
    created_at TIMESTAMP not null,
    check (name <> '')
);

-- One person is one person_id in all services. Names and phone numbers are kept encrypted, apart.
create table person (
    person_id INTEGER primary key,
    tenant_id INTEGER not null references tenant (tenant_id),
    created_at TIMESTAMP not null
);

create index person_tenant on person (tenant_id, person_id);

-- The master keys that rows here are kept under, without their bytes: what tells another key of the same
-- name. A key that holds a row cannot be taken away.
create table _master_key (
    key_id TEXT not null primary key,
    fingerprint TEXT not null,
    created_at TIMESTAMP not null
);

-- Who a person is, encrypted. A data key a person, wrapped by a master key; without it nothing opens.
create table _person_key (
    tenant_id INTEGER not null,
    person_id INTEGER not null,
    master_key_id TEXT references _master_key (key_id),
    wrapped_key BLOB,
    created_at TIMESTAMP not null,
    destroyed_at TIMESTAMP,
    primary key (tenant_id, person_id),
    check ((wrapped_key is null) = (destroyed_at is not null)),
    check ((wrapped_key is null) = (master_key_id is null))
);

create table _identifier (
    tenant_id INTEGER not null,
    person_id INTEGER not null,
    field TEXT not null check (field in ('name', 'phone', 'id_card', 'address')),
    ciphertext BLOB not null,
    updated_at TIMESTAMP not null,
    primary key (tenant_id, person_id, field),
    foreign key (tenant_id, person_id) references _person_key (tenant_id, person_id)
);

-- What stands for a phone number or ID card, so that persons are found by it.
create table _identifier_token (
    tenant_id INTEGER not null,
    field TEXT not null check (field in ('phone', 'id_card')),
    token TEXT not null,
    person_id INTEGER not null,
    master_key_id TEXT not null references _master_key (key_id),
    primary key (tenant_id, field, token, person_id)
);

create index _identifier_token_person on _identifier_token (tenant_id, person_id);

-- How a person signs in. The hash of the password says by which parameters it was made.
create table account (
    account_id INTEGER primary key,
    tenant_id INTEGER not null references tenant (tenant_id),
    person_id INTEGER not null references person (person_id),
    login TEXT not null,
    state TEXT not null,
    password_hash TEXT not null,
    must_change_password BOOLEAN not null,
    password_changed_at TIMESTAMP not null,
    failed_count INTEGER not null,
    locked_until TIMESTAMP,
    created_at TIMESTAMP not null,
    version INTEGER not null,
    check (state in ('active', 'disabled')),
    check (failed_count >= 0),
    unique (tenant_id, login),
    unique (person_id)
);

-- What those who have it may do: words of permissions, separated by spaces.
create table role (
    role_id INTEGER primary key,
    tenant_id INTEGER not null references tenant (tenant_id),
    name TEXT not null,
    permissions TEXT not null,
    created_at TIMESTAMP not null,
    version INTEGER not null,
    unique (tenant_id, name)
);

create table account_role (
    account_id INTEGER not null references account (account_id),
    role_id INTEGER not null references role (role_id),
    primary key (account_id, role_id)
);

-- A program that asks for tokens. A public one cannot keep a secret.
create table client (
    client_id INTEGER primary key,
    tenant_id INTEGER not null references tenant (tenant_id),
    client_key TEXT not null,
    name TEXT not null,
    secret_hash TEXT,
    redirect_uris TEXT not null,
    permissions TEXT not null,
    state TEXT not null,
    created_at TIMESTAMP not null,
    version INTEGER not null,
    unique (client_key),
    check (state in ('active', 'disabled'))
);

-- Somebody signed in with a browser. Of what the browser holds only the hash is kept, here and below.
create table session (
    session_id INTEGER primary key,
    tenant_id INTEGER not null references tenant (tenant_id),
    account_id INTEGER not null references account (account_id),
    token_hash TEXT not null,
    authenticated_at TIMESTAMP not null,
    expires_at TIMESTAMP not null,
    ended_at TIMESTAMP,
    unique (token_hash)
);

create index session_account on session (account_id);

-- Good once, for a minute. family_id names the tokens that came of it.
create table authorization_code (
    code_hash TEXT not null primary key,
    tenant_id INTEGER not null references tenant (tenant_id),
    client_id INTEGER not null references client (client_id),
    session_id INTEGER not null references session (session_id),
    redirect_uri TEXT not null,
    scope TEXT not null,
    code_challenge TEXT not null,
    nonce TEXT,
    expires_at TIMESTAMP not null,
    family_id TEXT not null,
    used_at TIMESTAMP
);

create index authorization_code_expires on authorization_code (expires_at);

-- Good once: the next takes its place. One that is used again ends its whole family.
create table refresh_token (
    refresh_token_id INTEGER primary key,
    tenant_id INTEGER not null references tenant (tenant_id),
    family_id TEXT not null,
    token_hash TEXT not null,
    client_id INTEGER not null references client (client_id),
    session_id INTEGER not null references session (session_id),
    scope TEXT not null,
    created_at TIMESTAMP not null,
    expires_at TIMESTAMP not null,
    used_at TIMESTAMP,
    revoked_at TIMESTAMP,
    unique (token_hash)
);

create index refresh_token_family on refresh_token (family_id);

create index refresh_token_session on refresh_token (session_id);

-- Access tokens that were revoked and have not expired.
create table revoked_token (
    token_id TEXT not null primary key,
    expires_at TIMESTAMP not null
);

create index revoked_token_expires on revoked_token (expires_at);

-- Keys of access tokens. The private half is encrypted with a key of its own, which a master key wraps.
create table signing_key (
    signing_key_id INTEGER primary key,
    key_id TEXT not null,
    master_key_id TEXT not null references _master_key (key_id),
    wrapped_key BLOB not null,
    private_key BLOB not null,
    x TEXT not null,
    y TEXT not null,
    created_at TIMESTAMP not null,
    state TEXT not null,
    retired_at TIMESTAMP,
    unique (key_id),
    check (state in ('next', 'current', 'retired'))
);

insert into tenant (tenant_id, name, created_at) values (1, 'default', 0);

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
