use std::sync::Arc;

use medlake_operational::Storage;

use super::*;
use crate::input::recording::shared_data;

const JHS: &str = "DateTime,Sys.mmHg.,Dias.mmHg.,Pulse.bpm.
2019-08-01 09:15:54,132,80,79
2019-07-31 11:39:59,70,120,62
2019-07-31 11:38:07,128.4,NA,60
";
const GLUCOSE: &str = "id,time,gl
Subject 1,2015-06-06 21:50:27,153
Subject 2,2015-06-06 22:05:27,93.0
";

async fn services(folder: &Path) -> Services {
    Services::open(&Storage::files(folder), Arc::new(|| 1_795_000_000_000_000), Arc::new(|| ()))
        .await
        .unwrap()
}

async fn texts(services: &Services, sql: &'static str) -> Vec<String> {
    let mut connection = services.chronic_care().read().await.unwrap();
    sqlx::query_scalar(sql).fetch_all(connection.sqlite().unwrap()).await.unwrap()
}

#[tokio::test]
async fn readings_have_units_and_quality_and_come_once() {
    let folder = tempfile::tempdir().unwrap();
    let services = services(&folder.path().join("operational")).await;
    let data = folder.path().join("device");
    std::fs::create_dir(&data).unwrap();
    let error = run(&services, &data, None).await.unwrap_err().to_string();
    assert!(error.contains("there is none of bp_jhs.csv, "), "{error}");
    std::fs::write(data.join("bp_jhs.csv"), JHS).unwrap();
    let first = run(&services, &data, None).await.unwrap();
    assert_eq!((first.written, first.skipped), (2, 0));
    assert_eq!(
        first.notes,
        ["bp_jhs.csv: 2 readings, 1 of them suspect; 1 rows without a value or a time"]
    );
    std::fs::write(data.join("example_data_5_subject.csv"), GLUCOSE).unwrap();
    let second = run(&services, &data, None).await.unwrap();
    assert_eq!((second.written, second.skipped), (2, 2));
    let readings = "
        select json_array(person_id, kind, systolic_mmhg, diastolic_mmhg, pulse_per_min,
            glucose_umol_per_l, quality, datetime(measured_at / 1000000, 'unixepoch', '8 hours'))
        from reading join patient using (patient_id) order by person_id, measured_at";
    assert_eq!(
        texts(&services, readings).await,
        [
            r#"[40000001,"blood_pressure",70,120,62,null,"suspect","2019-07-31 11:39:59"]"#,
            r#"[40000001,"blood_pressure",132,80,79,null,"ok","2019-08-01 09:15:54"]"#,
            r#"[40400001,"glucose",null,null,null,8492,"ok","2015-06-06 21:50:27"]"#,
            r#"[40400002,"glucose",null,null,null,5162,"ok","2015-06-06 22:05:27"]"#,
        ]
    );
    std::fs::write(data.join("bp_jhs.csv"), JHS.replace("132", "high")).unwrap();
    let error = format!("{:#}", run(&services, &data, None).await.unwrap_err());
    assert!(error.contains("line 2: Sys.mmHg. cannot be \"high\""), "{error}");
}

/// The real files; of one of them others computed what it comes to.
#[tokio::test]
async fn the_real_files_have_their_totals() {
    let Some(data) = shared_data() else { return };
    let folder = tempfile::tempdir().unwrap();
    let services = services(folder.path()).await;
    let report = run(&services, &data.join("device"), None).await.unwrap();
    println!("{report}");
    let oracle = std::fs::read(data.join("oracles/dataset_totals.json")).unwrap();
    let oracle: serde_json::Value = serde_json::from_slice(&oracle).unwrap();
    let totals = "
        select json_object('readings', count(*), 'mean_sys', round(avg(systolic_mmhg), 3),
            'mean_dia', round(avg(diastolic_mmhg), 3),
            'below_135_85', sum(systolic_mmhg < 135 and diastolic_mmhg < 85),
            'below_140_90', sum(systolic_mmhg < 140 and diastolic_mmhg < 90))
        from reading where patient_id = 40000001";
    let ours: serde_json::Value = serde_json::from_str(&texts(&services, totals).await[0]).unwrap();
    assert_eq!(ours, oracle["bp_jhs"]);
    let counts = "
        select json_array(patient_id / 100000 - 400, count(*), count(distinct patient_id))
        from reading group by patient_id / 100000 order by 1";
    let counts = texts(&services, counts).await;
    println!("{counts:?}");
    assert_eq!(counts.len(), 6);
    assert_eq!((&*counts[0], &*counts[4]), ("[0,222,1]", "[4,13866,5]"));
}
