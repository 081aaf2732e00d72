-- Who there is, and what they may do. Not captured: nothing of it leaves the database.

-- Who uses the platform: a hospital, a chain of pharmacies. The first is there from the start.
create table if not exists tenant (
    tenant_id bigint primary key,
    name varchar(255) not null,
    created_at datetime(6) not null,
    check (name <> '')
);

-- One person is one person_id in all services. Names and phone numbers are kept encrypted, apart.
create table if not exists person (
    person_id bigint primary key,
    tenant_id bigint not null,
    created_at datetime(6) not null,
    foreign key (tenant_id) references tenant (tenant_id),
    index person_tenant (tenant_id, person_id)
);

-- The master keys that rows here are kept under, without their bytes: what tells another key of the same
-- name. A key that holds a row cannot be taken away.
create table if not exists _master_key (
    key_id varchar(32) not null primary key,
    fingerprint varchar(64) not null,
    created_at datetime(6) not null
);

-- Who a person is, encrypted. A data key a person, wrapped by a master key; without it nothing opens.
create table if not exists _person_key (
    tenant_id bigint not null,
    person_id bigint not null,
    master_key_id varchar(32),
    wrapped_key longblob,
    created_at datetime(6) not null,
    destroyed_at datetime(6),
    primary key (tenant_id, person_id),
    check ((wrapped_key is null) = (destroyed_at is not null)),
    check ((wrapped_key is null) = (master_key_id is null)),
    index _person_key_master (master_key_id),
    foreign key (master_key_id) references _master_key (key_id)
);

create table if not exists _identifier (
    tenant_id bigint not null,
    person_id bigint not null,
    field varchar(32) not null,
    ciphertext longblob not null,
    updated_at datetime(6) not null,
    check (field in ('name', 'phone', 'id_card', 'address')),
    primary key (tenant_id, person_id, field),
    foreign key (tenant_id, person_id) references _person_key (tenant_id, person_id)
);

-- What stands for a phone number or ID card, so that persons are found by it.
create table if not exists _identifier_token (
    tenant_id bigint not null,
    field varchar(32) not null,
    token varchar(64) not null,
    person_id bigint not null,
    master_key_id varchar(32) not null,
    check (field in ('phone', 'id_card')),
    primary key (tenant_id, field, token, person_id),
    index _identifier_token_person (tenant_id, person_id),
    foreign key (master_key_id) references _master_key (key_id)
);

-- How a person signs in. The hash of the password says by which parameters it was made.
create table if not exists account (
    account_id bigint primary key,
    tenant_id bigint not null,
    person_id bigint not null,
    login varchar(128) not null,
    state varchar(32) not null,
    password_hash varchar(255) not null,
    must_change_password bit(1) not null,
    password_changed_at datetime(6) not null,
    failed_count bigint not null,
    locked_until datetime(6),
    created_at datetime(6) not null,
    version bigint not null,
    foreign key (tenant_id) references tenant (tenant_id),
    foreign key (person_id) references person (person_id),
    check (state in ('active', 'disabled')),
    check (failed_count >= 0),
    unique (tenant_id, login),
    unique (person_id)
);

-- What those who have it may do: words of permissions, separated by spaces.
create table if not exists role (
    role_id bigint primary key,
    tenant_id bigint not null,
    name varchar(64) not null,
    permissions longtext not null,
    created_at datetime(6) not null,
    version bigint not null,
    foreign key (tenant_id) references tenant (tenant_id),
    unique (tenant_id, name)
);

create table if not exists account_role (
    account_id bigint not null,
    role_id bigint not null,
    foreign key (account_id) references account (account_id),
    foreign key (role_id) references role (role_id),
    primary key (account_id, role_id)
);

-- A program that asks for tokens. A public one cannot keep a secret.
create table if not exists client (
    client_id bigint primary key,
    tenant_id bigint not null,
    client_key varchar(64) not null,
    name varchar(255) not null,
    secret_hash varchar(64),
    redirect_uris longtext not null,
    permissions longtext not null,
    state varchar(32) not null,
    created_at datetime(6) not null,
    version bigint not null,
    foreign key (tenant_id) references tenant (tenant_id),
    unique (client_key),
    check (state in ('active', 'disabled'))
);

-- Somebody signed in with a browser. Of what the browser holds only the hash is kept, here and below.
create table if not exists session (
    session_id bigint primary key,
    tenant_id bigint not null,
    account_id bigint not null,
    token_hash varchar(64) not null,
    authenticated_at datetime(6) not null,
    expires_at datetime(6) not null,
    ended_at datetime(6),
    foreign key (tenant_id) references tenant (tenant_id),
    foreign key (account_id) references account (account_id),
    unique (token_hash),
    index session_account (account_id)
);

-- Good once, for a minute. family_id names the tokens that came of it.
create table if not exists authorization_code (
    code_hash varchar(64) primary key,
    tenant_id bigint not null,
    client_id bigint not null,
    session_id bigint not null,
    redirect_uri longtext not null,
    scope longtext not null,
    code_challenge varchar(128) not null,
    nonce longtext,
    expires_at datetime(6) not null,
    family_id varchar(64) not null,
    used_at datetime(6),
    foreign key (tenant_id) references tenant (tenant_id),
    foreign key (client_id) references client (client_id),
    foreign key (session_id) references session (session_id),
    index authorization_code_expires (expires_at)
);

-- Good once: the next takes its place. One that is used again ends its whole family.
create table if not exists refresh_token (
    refresh_token_id bigint primary key,
    tenant_id bigint not null,
    family_id varchar(64) not null,
    token_hash varchar(64) not null,
    client_id bigint not null,
    session_id bigint not null,
    scope longtext not null,
    created_at datetime(6) not null,
    expires_at datetime(6) not null,
    used_at datetime(6),
    revoked_at datetime(6),
    foreign key (tenant_id) references tenant (tenant_id),
    foreign key (client_id) references client (client_id),
    foreign key (session_id) references session (session_id),
    unique (token_hash),
    index refresh_token_family (family_id),
    index refresh_token_session (session_id)
);

-- Access tokens that were revoked and have not expired.
create table if not exists revoked_token (
    token_id varchar(64) primary key,
    expires_at datetime(6) not null,
    index revoked_token_expires (expires_at)
);

-- Keys of access tokens. The private half is encrypted with a key of its own, which a master key wraps.
create table if not exists signing_key (
    signing_key_id bigint primary key,
    key_id varchar(64) not null,
    master_key_id varchar(32) not null,
    wrapped_key longblob not null,
    private_key longblob not null,
    x varchar(64) not null,
    y varchar(64) not null,
    created_at datetime(6) not null,
    state varchar(32) not null,
    retired_at datetime(6),
    unique (key_id),
    check (state in ('next', 'current', 'retired')),
    foreign key (master_key_id) references _master_key (key_id)
);

insert ignore into tenant (tenant_id, name, created_at) values (1, 'default', '1970-01-01');

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
