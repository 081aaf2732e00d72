use std::sync::Arc;

use medlake_operational::Storage;

use super::*;
use crate::input::recording::shared_data;

async fn services(folder: &Path) -> Services {
    Services::open(&Storage::files(folder), Arc::new(|| 1_795_000_000_000_000), Arc::new(|| ()))
        .await
        .unwrap()
}

async fn texts(services: &Services, sql: &'static str) -> Vec<String> {
    let mut connection = services.chronic_care().read().await.unwrap();
    sqlx::query_scalar(sql).fetch_all(connection.sqlite().unwrap()).await.unwrap()
}

fn write_files(folder: &Path, patients: &str) {
    for (name, text) in [
        ("patients", patients),
        (
            "conditions",
            "START,STOP,PATIENT,CODE\n2019-05-01,,p1,59621000\n2020-01-01,2020-02-01,p1,195662009\n\
             2020-01-01,,p1,160903007\n",
        ),
        (
            "medications",
            "START,STOP,PATIENT,CODE,DISPENSES\n2019-05-01T18:00:00Z,,p1,314076,3\n\
             2020-05-01T01:00:00Z,2020-06-01T01:00:00Z,p1,665078,1\n\
             1969-05-01T18:00:00Z,,p1,314076,3\n",
        ),
        (
            "encounters",
            "Id,START,PATIENT,ENCOUNTERCLASS,DESCRIPTION\n\
             e1,2019-05-01T10:00:00Z,p1,wellness,\"Check-up, general\"\n\
             e2,2020-05-01T10:00:00Z,p1,ambulatory,Visit\n",
        ),
        (
            "observations",
            "PATIENT,ENCOUNTER,CODE,VALUE\np1,e1,8480-6,142.0\np1,e1,8462-4,91.4\n\
             p1,e1,8867-4,70\np1,e2,2339-0,95.3\np1,e2,8302-2,170\n",
        ),
    ] {
        std::fs::write(folder.join(format!("{name}.csv")), text).unwrap();
    }
}

#[tokio::test]
async fn a_patient_comes_with_all_that_happened_and_once() {
    let folder = tempfile::tempdir().unwrap();
    let services = services(&folder.path().join("operational")).await;
    let data = folder.path();
    write_files(data, "Id,BIRTHDATE,GENDER\np1,1950-03-04,F\n");
    let first = run(&services, data, None).await.unwrap();
    assert_eq!((first.written, first.skipped, first.detail_rows), (1, 0, 12));
    assert_eq!(
        first.notes,
        ["left out: 1 conditions without a code of ICD-10 here, 1 rows of before 1970"]
    );
    write_files(data, "Id,BIRTHDATE,GENDER\np1,1950-03-04,F\np2,1960-03-04,M\n");
    let second = run(&services, data, None).await.unwrap();
    assert_eq!((second.written, second.skipped), (1, 1));
    let rows = "
        select json_array(person_id, sex, birth_date, condition,
            (select json_group_array(json_array(icd10, diagnosed_on, resolved_on))
                from patient_condition c where c.patient_id = p.patient_id and icd10 is not null),
            (select json_group_array(json_array(drug_code, drug_class, starts_on))
                from medication_plan m where m.patient_id = p.patient_id),
            (select json_group_array(json_array(drug_class, dispensed_on, days_supply))
                from dispensing d where d.patient_id = p.patient_id),
            (select json_group_array(json_array(systolic_mmhg, fasting_glucose_umol_per_l, on_target, note))
                from follow_up f where f.patient_id = p.patient_id),
            (select json_group_array(json_array(kind, coalesce(diastolic_mmhg, glucose_umol_per_l)))
                from reading r where r.patient_id = p.patient_id))
        from patient p order by person_id";
    let rows = texts(&services, rows).await;
    assert_eq!(
        rows[0],
        concat!(
            r#"[50000001,"female","1950-03-04","hypertension","#,
            r#"[["I10","2019-05-01",null],["J02.9","2020-01-01","2020-02-01"]],"#,
            r#"[["C09AA03","C09A","2019-05-02"]],"#,
            r#"[["C09A","2019-05-02",30],["C09A","2019-06-01",30],["C09A","2019-07-01",30],"#,
            r#"["RxNorm","2020-05-01",30]],"#,
            r#"[[142,null,0,"wellness: Check-up, general"],[null,5290,null,"ambulatory: Visit"]],"#,
            r#"[["blood_pressure",91],["glucose",5290]]]"#
        )
    );
    assert!(rows[1].starts_with(r#"[50000002,"male","1960-03-04","other""#), "{}", rows[1]);
    write_files(data, "Id,BIRTHDATE,GENDER\np2,1960-03-04,M\n");
    let error = format!("{:#}", run(&services, data, None).await.unwrap_err());
    assert!(error.contains("line 2: patient p1 is not in patients.csv"), "{error}");
}

/// The real files: what is in them is in the tables, but for what is said to be left out.
#[tokio::test]
async fn the_real_patients_come_whole() {
    let Some(data) = shared_data() else { return };
    let folder = tempfile::tempdir().unwrap();
    let services = services(folder.path()).await;
    let report = run(&services, &data.join("synthea"), None).await.unwrap();
    println!("{report}");
    assert_eq!(report.written, 27);
    let recording = Recording::read(&data.join("synthea")).await.unwrap();
    let totals = "
        select json_array((select count(*) from patient),
            (select count(*) from patient where condition = 'hypertension'),
            (select count(*) from follow_up), (select count(*) from dispensing),
            (select count(*) from reading where kind = 'blood_pressure'))";
    let early = |table: &str| {
        let text = std::fs::read_to_string(data.join(format!("synthea/{table}.csv"))).unwrap();
        let early = |line: &&str| line.split(',').nth(1).is_some_and(|at| at < "1970");
        text.lines().skip(1).filter(early).count()
    };
    // 604 encounters and 27 pairs of pressures, as counted by others.
    let early_encounters = early("encounters");
    let dispensed: u64 =
        recording.patients.iter().flat_map(|(_, p)| &p.medications).map(|m| m.dispenses).sum();
    assert_eq!(
        texts(&services, totals).await,
        [format!("[27,6,{},{dispensed},27]", 604 - early_encounters)]
    );
    let again = run(&services, &data.join("synthea"), None).await.unwrap();
    assert_eq!((again.written, again.skipped), (0, 27));
}
