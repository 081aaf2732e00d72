-- Chronic care. Blood pressure in mmHg, glucose in micromol per litre, days as yyyy-mm-dd text.

create table patient (
    patient_id INTEGER primary key,
    tenant_id INTEGER not null,
    person_id INTEGER not null,
    sex TEXT not null check (sex in ('female', 'male', 'unknown')),
    birth_date DATE,
    condition TEXT not null check (condition in ('hypertension', 'diabetes', 'other')),
    enrolled_at TIMESTAMP not null,
    status TEXT not null check (status in ('active', 'lost', 'left', 'restricted', 'erased')),
    erase_on DATE check (erase_on is null or status = 'restricted'),
    version INTEGER not null,
    unique (tenant_id, person_id)
);

create index patient_erase_on on patient (erase_on);

create table patient_status_change (
    change_id INTEGER primary key,
    tenant_id INTEGER not null,
    patient_id INTEGER not null references patient (patient_id),
    from_status TEXT not null,
    to_status TEXT not null,
    reason TEXT not null,
    actor TEXT not null,
    changed_at TIMESTAMP not null,
    check (from_status <> to_status)
);

create index patient_status_change_patient on patient_status_change (patient_id);

create table patient_condition (
    patient_condition_id INTEGER primary key,
    tenant_id INTEGER not null,
    patient_id INTEGER not null references patient (patient_id),
    condition TEXT not null check (condition in ('hypertension', 'diabetes', 'other')),
    icd10 TEXT,
    diagnosed_on DATE,
    resolved_on DATE check (resolved_on >= diagnosed_on),
    recorded_at TIMESTAMP not null
);

create index patient_condition_patient on patient_condition (patient_id);

create table consent (
    consent_id INTEGER primary key,
    tenant_id INTEGER not null,
    patient_id INTEGER not null references patient (patient_id),
    purpose TEXT not null check (purpose in ('care', 'analytics', 'marketing', 'sharing')),
    sensitive_data BOOLEAN not null check (sensitive_data in (0, 1)),
    text_version TEXT not null check (text_version <> ''),
    given_at TIMESTAMP not null,
    withdrawn_at TIMESTAMP check (withdrawn_at >= given_at),
    recorded_at TIMESTAMP not null
);

create index consent_patient on consent (patient_id, purpose);

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

create index _person_key_master on _person_key (master_key_id);

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

-- Who saw identifiers in the clear, and what for.
create table _identifier_access (
    access_id INTEGER primary key,
    tenant_id INTEGER not null,
    patient_id INTEGER not null references patient (patient_id),
    actor TEXT not null,
    purpose TEXT not null,
    accessed_at TIMESTAMP not null
);

create index _identifier_access_patient on _identifier_access (patient_id);

-- Templates of programmes, as they were written; a version never changes.
create table care_template (
    template_id INTEGER primary key,
    tenant_id INTEGER not null,
    name TEXT not null,
    version INTEGER not null check (version > 0),
    title TEXT not null,
    condition TEXT not null check (condition in ('hypertension', 'diabetes', 'other')),
    source TEXT not null,
    created_at TIMESTAMP not null,
    unique (tenant_id, name, version)
);

create table care_programme (
    programme_id INTEGER primary key,
    tenant_id INTEGER not null,
    patient_id INTEGER not null references patient (patient_id),
    template_id INTEGER not null references care_template (template_id),
    template TEXT not null,
    state TEXT not null check (state in ('running', 'lost', 'completed', 'cancelled')),
    step TEXT not null,
    visit INTEGER not null,
    repeats INTEGER not null,
    entered_at TIMESTAMP not null,
    due_at TIMESTAMP,
    fired INTEGER not null,
    timer_at TIMESTAMP,
    started_at TIMESTAMP not null,
    ended_at TIMESTAMP,
    reason TEXT,
    version INTEGER not null,
    check ((ended_at is null) = (state in ('running', 'lost'))),
    check (timer_at is null or state = 'running')
);

create index care_programme_patient on care_programme (patient_id);

create index care_programme_timer on care_programme (timer_at);

create table care_step (
    care_step_id INTEGER primary key,
    tenant_id INTEGER not null,
    programme_id INTEGER not null references care_programme (programme_id),
    patient_id INTEGER not null references patient (patient_id),
    visit INTEGER not null,
    template_id INTEGER not null references care_template (template_id),
    step TEXT not null,
    entered_at TIMESTAMP not null,
    due_at TIMESTAMP,
    overdue_at TIMESTAMP,
    left_at TIMESTAMP check (left_at >= entered_at),
    outcome TEXT not null check (outcome in ('open', 'answered', 'passed', 'overdue', 'moved', 'ended')),
    follow_up_id INTEGER,
    unique (programme_id, visit),
    check ((left_at is null) = (outcome = 'open')),
    check ((follow_up_id is not null) = (outcome = 'answered'))
);

create index care_step_patient on care_step (patient_id);

create table follow_up (
    follow_up_id INTEGER primary key,
    tenant_id INTEGER not null,
    patient_id INTEGER not null references patient (patient_id),
    performed_at TIMESTAMP not null,
    method TEXT not null check (method in ('visit', 'phone', 'online')),
    systolic_mmhg INTEGER,
    diastolic_mmhg INTEGER,
    fasting_glucose_umol_per_l INTEGER,
    on_target BOOLEAN check (on_target in (0, 1)),
    note TEXT,
    programme_id INTEGER references care_programme (programme_id),
    form TEXT
);

create index follow_up_patient on follow_up (patient_id, performed_at);

create table follow_up_answer (
    answer_id INTEGER primary key,
    tenant_id INTEGER not null,
    follow_up_id INTEGER not null references follow_up (follow_up_id),
    field TEXT not null,
    position INTEGER not null,
    integer_value INTEGER,
    decimal_value REAL,
    text_value TEXT,
    boolean_value BOOLEAN check (boolean_value in (0, 1)),
    date_value DATE,
    unique (follow_up_id, field, position),
    check ((integer_value is not null) + (decimal_value is not null) + (text_value is not null) + (boolean_value is not null) + (date_value is not null) = 1)
);

create table alert (
    alert_id INTEGER primary key,
    tenant_id INTEGER not null,
    patient_id INTEGER references patient (patient_id),
    kind TEXT not null check (kind in ('reading', 'overdue', 'lost', 'step', 'doses', 'device')),
    severity TEXT not null check (severity in ('info', 'warning', 'critical')),
    rule TEXT not null,
    cause TEXT not null,
    title TEXT not null,
    occurrences INTEGER not null check (occurrences > 0),
    raised_at TIMESTAMP not null,
    last_at TIMESTAMP not null,
    status TEXT not null check (status in ('open', 'acknowledged', 'resolved')),
    acknowledged_at TIMESTAMP,
    acknowledged_by TEXT,
    resolved_at TIMESTAMP,
    resolved_by TEXT,
    resolution TEXT,
    unique (tenant_id, cause),
    check ((resolved_at is not null) = (status = 'resolved'))
);

create index alert_rule on alert (tenant_id, rule, patient_id);

create index alert_patient on alert (patient_id);

create table device (
    device_id INTEGER primary key,
    tenant_id INTEGER not null,
    kind TEXT not null check (kind in ('blood_pressure_monitor', 'glucose_meter')),
    model TEXT not null,
    serial TEXT not null check (serial <> ''),
    status TEXT not null check (status in ('in_service', 'expired', 'retired')),
    valid_to DATE,
    clock_offset_seconds INTEGER,
    clock_checked_at TIMESTAMP,
    registered_at TIMESTAMP not null,
    version INTEGER not null,
    unique (tenant_id, kind, serial)
);

create index device_valid_to on device (valid_to);

create table device_assignment (
    assignment_id INTEGER primary key,
    tenant_id INTEGER not null,
    device_id INTEGER not null references device (device_id),
    patient_id INTEGER not null references patient (patient_id),
    assigned_at TIMESTAMP not null,
    returned_at TIMESTAMP check (returned_at >= assigned_at)
);

create index device_assignment_device on device_assignment (device_id, assigned_at);

create index device_assignment_patient on device_assignment (patient_id);

create table reading (
    reading_id INTEGER primary key,
    tenant_id INTEGER not null,
    patient_id INTEGER not null references patient (patient_id),
    kind TEXT not null check (kind in ('blood_pressure', 'glucose')),
    systolic_mmhg INTEGER,
    diastolic_mmhg INTEGER,
    pulse_per_min INTEGER,
    glucose_umol_per_l INTEGER,
    quality TEXT not null check (quality in ('ok', 'suspect')),
    measured_at TIMESTAMP not null,
    recorded_at TIMESTAMP not null,
    setting TEXT not null check (setting in ('home', 'office')),
    meal TEXT check (meal in ('fasting', 'after_meal', 'random')),
    device_id INTEGER references device (device_id),
    device_measured_at TIMESTAMP,
    flags TEXT not null,
    check ((kind = 'blood_pressure') = (systolic_mmhg is not null)),
    check ((kind = 'blood_pressure') = (diastolic_mmhg is not null)),
    check ((kind = 'glucose') = (glucose_umol_per_l is not null)),
    check (meal is null or kind = 'glucose')
);

create index reading_patient on reading (patient_id, measured_at);

create index reading_device on reading (device_id);

create table medication_plan (
    plan_id INTEGER primary key,
    tenant_id INTEGER not null,
    patient_id INTEGER not null references patient (patient_id),
    drug_code TEXT not null,
    drug_class TEXT not null,
    doses_per_day INTEGER not null check (doses_per_day between 1 and 24),
    starts_on DATE not null,
    ends_on DATE check (ends_on >= starts_on),
    status TEXT not null check (status in ('active', 'paused', 'hospital', 'stopped')),
    created_at TIMESTAMP not null,
    updated_at TIMESTAMP not null,
    dose_amount REAL check (dose_amount > 0),
    dose_unit TEXT,
    clock_times TEXT,
    slots_to TIMESTAMP,
    version INTEGER not null
);

create index medication_plan_patient on medication_plan (patient_id);

create index medication_plan_slots on medication_plan (slots_to);

-- What a plan was from when on: the last row that has begun holds.
create table medication_plan_change (
    change_id INTEGER primary key,
    tenant_id INTEGER not null,
    plan_id INTEGER not null references medication_plan (plan_id),
    patient_id INTEGER not null references patient (patient_id),
    kind TEXT not null check (kind in ('started', 'changed', 'paused', 'hospital', 'resumed', 'stopped')),
    effective_at TIMESTAMP not null,
    status TEXT not null check (status in ('active', 'paused', 'hospital', 'stopped')),
    doses_per_day INTEGER not null check (doses_per_day between 1 and 24),
    dose_amount REAL,
    dose_unit TEXT,
    clock_times TEXT,
    reason TEXT not null,
    actor TEXT not null,
    recorded_at TIMESTAMP not null
);

create index medication_plan_change_plan on medication_plan_change (plan_id, effective_at);

create table dose_event (
    dose_event_id INTEGER primary key,
    tenant_id INTEGER not null,
    plan_id INTEGER not null references medication_plan (plan_id),
    patient_id INTEGER not null references patient (patient_id),
    scheduled_at TIMESTAMP not null,
    status TEXT not null check (status in ('taken', 'late', 'missed')),
    taken_at TIMESTAMP,
    recorded_at TIMESTAMP not null,
    unique (plan_id, scheduled_at),
    check (status = 'missed' or taken_at is not null)
);

create index dose_event_patient on dose_event (patient_id, scheduled_at);

create table reminder_slot (
    slot_id INTEGER primary key,
    tenant_id INTEGER not null,
    plan_id INTEGER not null references medication_plan (plan_id),
    patient_id INTEGER not null references patient (patient_id),
    scheduled_at TIMESTAMP not null,
    dose_amount REAL,
    dose_unit TEXT,
    status TEXT not null check (status in ('due', 'taken', 'late', 'missed', 'cancelled')),
    cancelled_for TEXT check (cancelled_for in ('changed', 'paused', 'hospital', 'stopped')),
    reminded_at TIMESTAMP,
    updated_at TIMESTAMP not null,
    unique (plan_id, scheduled_at),
    check ((cancelled_for is not null) = (status = 'cancelled'))
);

create index reminder_slot_due on reminder_slot (status, scheduled_at);

create index reminder_slot_patient on reminder_slot (patient_id, scheduled_at);

create table dispensing (
    dispensing_id INTEGER primary key,
    tenant_id INTEGER not null,
    patient_id INTEGER not null references patient (patient_id),
    drug_code TEXT not null,
    drug_class TEXT not null,
    dispensed_on DATE not null,
    days_supply INTEGER not null check (days_supply > 0),
    source TEXT not null check (source in ('mall', 'hospital', 'import')),
    created_at TIMESTAMP not null
);

create index dispensing_patient on dispensing (patient_id, dispensed_on);

-- Which dispensing a line bought in the mall became: a second delivery finds it and changes nothing.
create table _mall_dispensing (
    order_line_id INTEGER primary key,
    dispensing_id INTEGER not null,
    quantity_left INTEGER not null,
    days_supply_per_unit INTEGER not null
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
