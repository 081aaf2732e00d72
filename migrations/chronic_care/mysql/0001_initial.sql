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

-- Templates of programmes, as they were written; a version never changes.
create table if not exists care_template (
    template_id bigint primary key,
    tenant_id bigint not null,
    name varchar(255) not null,
    version bigint not null,
    title varchar(255) not null,
    `condition` varchar(32) not null,
    source longtext not null,
    created_at datetime(6) not null,
    check (version > 0),
    check (`condition` in ('hypertension', 'diabetes', 'other')),
    unique (tenant_id, name, version)
);

create table if not exists care_programme (
    programme_id bigint primary key,
    tenant_id bigint not null,
    patient_id bigint not null,
    template_id bigint not null,
    template varchar(255) not null,
    state varchar(32) not null,
    step varchar(255) not null,
    visit bigint not null,
    repeats bigint not null,
    entered_at datetime(6) not null,
    due_at datetime(6),
    fired bigint not null,
    timer_at datetime(6),
    started_at datetime(6) not null,
    ended_at datetime(6),
    reason longtext,
    version bigint not null,
    foreign key (patient_id) references patient (patient_id),
    foreign key (template_id) references care_template (template_id),
    check (state in ('running', 'lost', 'completed', 'cancelled')),
    check ((ended_at is null) = (state in ('running', 'lost'))),
    check (timer_at is null or state = 'running'),
    index care_programme_patient (patient_id),
    index care_programme_timer (timer_at)
);

create table if not exists care_step (
    care_step_id bigint primary key,
    tenant_id bigint not null,
    programme_id bigint not null,
    patient_id bigint not null,
    visit bigint not null,
    template_id bigint not null,
    step varchar(255) not null,
    entered_at datetime(6) not null,
    due_at datetime(6),
    overdue_at datetime(6),
    left_at datetime(6),
    outcome varchar(32) not null,
    follow_up_id bigint,
    foreign key (programme_id) references care_programme (programme_id),
    foreign key (patient_id) references patient (patient_id),
    foreign key (template_id) references care_template (template_id),
    check (left_at >= entered_at),
    check (outcome in ('open', 'answered', 'passed', 'overdue', 'moved', 'ended')),
    unique (programme_id, visit),
    check ((left_at is null) = (outcome = 'open')),
    check ((follow_up_id is not null) = (outcome = 'answered')),
    index care_step_patient (patient_id)
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
    programme_id bigint,
    form varchar(255),
    foreign key (patient_id) references patient (patient_id),
    check (method in ('visit', 'phone', 'online')),
    foreign key (programme_id) references care_programme (programme_id),
    index follow_up_patient (patient_id, performed_at)
);

create table if not exists follow_up_answer (
    answer_id bigint primary key,
    tenant_id bigint not null,
    follow_up_id bigint not null,
    field varchar(64) not null,
    position bigint not null,
    integer_value bigint,
    decimal_value double,
    text_value longtext,
    boolean_value bit(1),
    date_value date,
    foreign key (follow_up_id) references follow_up (follow_up_id),
    unique (follow_up_id, field, position),
    check ((integer_value is not null) + (decimal_value is not null) + (text_value is not null) + (boolean_value is not null) + (date_value is not null) = 1)
);

create table if not exists alert (
    alert_id bigint primary key,
    tenant_id bigint not null,
    patient_id bigint,
    kind varchar(32) not null,
    severity varchar(32) not null,
    rule varchar(255) not null,
    cause varchar(255) not null,
    title longtext not null,
    occurrences bigint not null,
    raised_at datetime(6) not null,
    last_at datetime(6) not null,
    status varchar(32) not null,
    acknowledged_at datetime(6),
    acknowledged_by varchar(255),
    resolved_at datetime(6),
    resolved_by varchar(255),
    resolution longtext,
    foreign key (patient_id) references patient (patient_id),
    check (kind in ('reading', 'overdue', 'lost', 'step', 'doses', 'device')),
    check (severity in ('info', 'warning', 'critical')),
    check (occurrences > 0),
    check (status in ('open', 'acknowledged', 'resolved')),
    unique (tenant_id, cause),
    check ((resolved_at is not null) = (status = 'resolved')),
    index alert_rule (tenant_id, rule, patient_id),
    index alert_patient (patient_id)
);

create table if not exists device (
    device_id bigint primary key,
    tenant_id bigint not null,
    kind varchar(32) not null,
    model varchar(255) not null,
    serial varchar(255) not null,
    status varchar(32) not null,
    valid_to date,
    clock_offset_seconds bigint,
    clock_checked_at datetime(6),
    registered_at datetime(6) not null,
    version bigint not null,
    check (kind in ('blood_pressure_monitor', 'glucose_meter')),
    check (serial <> ''),
    check (status in ('in_service', 'expired', 'retired')),
    unique (tenant_id, kind, serial),
    index device_valid_to (valid_to)
);

create table if not exists device_assignment (
    assignment_id bigint primary key,
    tenant_id bigint not null,
    device_id bigint not null,
    patient_id bigint not null,
    assigned_at datetime(6) not null,
    returned_at datetime(6),
    foreign key (device_id) references device (device_id),
    foreign key (patient_id) references patient (patient_id),
    check (returned_at >= assigned_at),
    index device_assignment_device (device_id, assigned_at),
    index device_assignment_patient (patient_id)
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
    setting varchar(32) not null,
    meal varchar(32),
    device_id bigint,
    device_measured_at datetime(6),
    flags varchar(255) not null,
    foreign key (patient_id) references patient (patient_id),
    check (kind in ('blood_pressure', 'glucose')),
    check (quality in ('ok', 'suspect')),
    check (setting in ('home', 'office')),
    check (meal in ('fasting', 'after_meal', 'random')),
    foreign key (device_id) references device (device_id),
    check ((kind = 'blood_pressure') = (systolic_mmhg is not null)),
    check ((kind = 'blood_pressure') = (diastolic_mmhg is not null)),
    check ((kind = 'glucose') = (glucose_umol_per_l is not null)),
    check (meal is null or kind = 'glucose'),
    index reading_patient (patient_id, measured_at),
    index reading_device (device_id)
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
    dose_amount double,
    dose_unit varchar(255),
    clock_times varchar(255),
    slots_to datetime(6),
    version bigint not null,
    foreign key (patient_id) references patient (patient_id),
    check (doses_per_day between 1 and 24),
    check (ends_on >= starts_on),
    check (status in ('active', 'paused', 'hospital', 'stopped')),
    check (dose_amount > 0),
    index medication_plan_patient (patient_id),
    index medication_plan_slots (slots_to)
);

-- What a plan was from when on: the last row that has begun holds.
create table if not exists medication_plan_change (
    change_id bigint primary key,
    tenant_id bigint not null,
    plan_id bigint not null,
    patient_id bigint not null,
    kind varchar(32) not null,
    effective_at datetime(6) not null,
    status varchar(32) not null,
    doses_per_day bigint not null,
    dose_amount double,
    dose_unit varchar(255),
    clock_times varchar(255),
    reason longtext not null,
    actor varchar(255) not null,
    recorded_at datetime(6) not null,
    foreign key (plan_id) references medication_plan (plan_id),
    foreign key (patient_id) references patient (patient_id),
    check (kind in ('started', 'changed', 'paused', 'hospital', 'resumed', 'stopped')),
    check (status in ('active', 'paused', 'hospital', 'stopped')),
    check (doses_per_day between 1 and 24),
    index medication_plan_change_plan (plan_id, effective_at)
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
    index dose_event_patient (patient_id, scheduled_at)
);

create table if not exists reminder_slot (
    slot_id bigint primary key,
    tenant_id bigint not null,
    plan_id bigint not null,
    patient_id bigint not null,
    scheduled_at datetime(6) not null,
    dose_amount double,
    dose_unit varchar(255),
    status varchar(32) not null,
    cancelled_for varchar(32),
    reminded_at datetime(6),
    updated_at datetime(6) not null,
    foreign key (plan_id) references medication_plan (plan_id),
    foreign key (patient_id) references patient (patient_id),
    check (status in ('due', 'taken', 'late', 'missed', 'cancelled')),
    check (cancelled_for in ('changed', 'paused', 'hospital', 'stopped')),
    unique (plan_id, scheduled_at),
    check ((cancelled_for is not null) = (status = 'cancelled')),
    index reminder_slot_due (status, scheduled_at),
    index reminder_slot_patient (patient_id, scheduled_at)
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
