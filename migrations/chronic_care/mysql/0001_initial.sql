-- Chronic care. Blood pressure in mmHg, glucose in micromol per litre, days as yyyy-mm-dd text.

create table if not exists patient (
    patient_id bigint primary key,
    tenant_id bigint not null,
    person_id bigint not null,
    sex varchar(32) not null,
    birth_date date,
    `condition` varchar(32) not null,
    enrolled_at datetime(6) not null,
    status varchar(32) not null,
    erase_on date,
    version bigint not null,
    check (sex in ('female', 'male', 'unknown')),
    check (`condition` in ('hypertension', 'diabetes', 'other')),
    check (status in ('active', 'lost', 'left', 'restricted', 'erased')),
    check (erase_on is null or status = 'restricted'),
    unique (tenant_id, person_id),
    index patient_erase_on (erase_on)
);

create table if not exists patient_status_change (
    change_id bigint primary key,
    tenant_id bigint not null,
    patient_id bigint not null,
    from_status varchar(255) not null,
    to_status varchar(255) not null,
    reason longtext not null,
    actor varchar(255) not null,
    changed_at datetime(6) not null,
    foreign key (patient_id) references patient (patient_id),
    check (from_status <> to_status),
    index patient_status_change_patient (patient_id)
);

create table if not exists patient_condition (
    patient_condition_id bigint primary key,
    tenant_id bigint not null,
    patient_id bigint not null,
    `condition` varchar(32) not null,
    icd10 varchar(255),
    diagnosed_on date,
    resolved_on date,
    recorded_at datetime(6) not null,
    foreign key (patient_id) references patient (patient_id),
    check (`condition` in ('hypertension', 'diabetes', 'other')),
    check (resolved_on >= diagnosed_on),
    index patient_condition_patient (patient_id)
);

create table if not exists consent (
    consent_id bigint primary key,
    tenant_id bigint not null,
    patient_id bigint not null,
    purpose varchar(32) not null,
    sensitive_data bit(1) not null,
    text_version varchar(255) not null,
    given_at datetime(6) not null,
    withdrawn_at datetime(6),
    recorded_at datetime(6) not null,
    foreign key (patient_id) references patient (patient_id),
    check (purpose in ('care', 'analytics', 'marketing', 'sharing')),
    check (text_version <> ''),
    check (withdrawn_at >= given_at),
    index consent_patient (patient_id, purpose)
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
    index _person_key_master (master_key_id)
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
    index _identifier_token_person (tenant_id, person_id)
);

-- Who saw identifiers in the clear, and what for.
create table if not exists _identifier_access (
    access_id bigint primary key,
    tenant_id bigint not null,
    patient_id bigint not null,
    actor varchar(255) not null,
    purpose longtext not null,
    accessed_at datetime(6) not null,
    foreign key (patient_id) references patient (patient_id),
    index _identifier_access_patient (patient_id)
);

create table if not exists medication_plan (
    plan_id bigint primary key,
    tenant_id bigint not null,
    patient_id bigint not null,
    drug_code varchar(255) not null,
    drug_class varchar(255) not null,
    doses_per_day bigint not null,
    starts_on date not null,
    ends_on date,
    status varchar(32) not null,
    created_at datetime(6) not null,
    updated_at datetime(6) not null,
    foreign key (patient_id) references patient (patient_id),
    check (doses_per_day between 1 and 24),
    check (ends_on >= starts_on),
    check (status in ('active', 'stopped')),
    index medication_plan_patient (patient_id)
);

create table if not exists dispensing (
    dispensing_id bigint primary key,
    tenant_id bigint not null,
    patient_id bigint not null,
    drug_code varchar(255) not null,
    drug_class varchar(255) not null,
    dispensed_on date not null,
    days_supply bigint not null,
    source varchar(32) not null,
    created_at datetime(6) not null,
    foreign key (patient_id) references patient (patient_id),
    check (days_supply > 0),
    check (source in ('mall', 'hospital', 'import')),
    index dispensing_patient (patient_id, dispensed_on)
);

create table if not exists dose_event (
    dose_event_id bigint primary key,
    tenant_id bigint not null,
    plan_id bigint not null,
    patient_id bigint not null,
    scheduled_at datetime(6) not null,
    status varchar(32) not null,
    taken_at datetime(6),
    recorded_at datetime(6) not null,
    foreign key (plan_id) references medication_plan (plan_id),
    foreign key (patient_id) references patient (patient_id),
    check (status in ('taken', 'late', 'missed')),
    unique (plan_id, scheduled_at),
    check (status = 'missed' or taken_at is not null),
    index dose_event_patient (patient_id)
);

create table if not exists reading (
    reading_id bigint primary key,
    tenant_id bigint not null,
    patient_id bigint not null,
    kind varchar(32) not null,
    systolic_mmhg bigint,
    diastolic_mmhg bigint,
    pulse_per_min bigint,
    glucose_umol_per_l bigint,
    quality varchar(32) not null,
    measured_at datetime(6) not null,
    recorded_at datetime(6) not null,
    foreign key (patient_id) references patient (patient_id),
    check (kind in ('blood_pressure', 'glucose')),
    check (quality in ('ok', 'suspect')),
    check ((kind = 'blood_pressure') = (systolic_mmhg is not null)),
    check ((kind = 'blood_pressure') = (diastolic_mmhg is not null)),
    check ((kind = 'glucose') = (glucose_umol_per_l is not null)),
    index reading_patient (patient_id, measured_at)
);

create table if not exists follow_up (
    follow_up_id bigint primary key,
    tenant_id bigint not null,
    patient_id bigint not null,
    performed_at datetime(6) not null,
    method varchar(32) not null,
    systolic_mmhg bigint,
    diastolic_mmhg bigint,
    fasting_glucose_umol_per_l bigint,
    on_target bit(1),
    note longtext,
    foreign key (patient_id) references patient (patient_id),
    check (method in ('visit', 'phone', 'online')),
    index follow_up_patient (patient_id, performed_at)
);

-- Which dispensing a line bought in the mall became: a second delivery finds it and changes nothing.
create table if not exists _mall_dispensing (
    order_line_id bigint primary key,
    dispensing_id bigint not null,
    quantity_left bigint not null,
    days_supply_per_unit bigint not null
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
