use super::*;

fn load(variables: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Config::load(None, variables, &[])
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

#[test]
fn defaults_are_valid() {
    assert_eq!(load(&[]).unwrap(), Config::default());
}

#[test]
fn the_environment_sets_and_other_variables_are_left_alone() {
    let config = load(&[("MEDLAKE__QUERY__MEMORY_MIB", "512"), ("HOME", "/x")]).unwrap();
    assert_eq!(config.query.memory_mib, 512);
}

#[test]
fn every_problem_is_reported_at_once() {
    let problems = load(&[
        ("MEDLAKE__QUERY__HTTP", "nowhere"),
        ("MEDLAKE__SIMULATE__ORDERS_PER_SECOND", "-1"),
        ("MEDLAKE__LAKE__FLUSH_ROWS", "many"),
        ("MEDLAKE__QUERY__POSTGRES", "127.0.0.1:8081"),
        ("MEDLAKE__SERVER__MEMORY_MIB", "1"),
    ])
    .unwrap_err();
    assert_eq!(problems.len(), 5, "{problems:#?}");
    for part in ["nowhere", "above 0", "flush_rows", "same address", "memory_mib?"] {
        assert!(problems.iter().any(|p| p.contains(part)), "{part}: {problems:#?}");
    }
}

#[test]
fn the_address_of_a_catalog_is_taken_and_never_shown() {
    let url = "postgres://medlake:geheim@db/lake";
    let config = load(&[("MEDLAKE__LAKE__CATALOG", url)]).unwrap();
    assert_eq!(Ok(&config.lake.catalog), url.parse().as_ref());
    assert!(config.to_string().contains("catalog: postgres://***\n"), "{config}");
    assert!(!format!("{config} {config:?}").contains("geheim"));
    let problems = load(&[("MEDLAKE__LAKE__CATALOG", "oracle://medlake:geheim@db")]).unwrap_err();
    assert!(problems[0].contains("lake.catalog"), "{problems:?}");
    assert!(!problems[0].contains("geheim"), "{problems:?}");
}

#[test]
fn a_bucket_and_its_keys_are_taken_and_the_keys_never_shown() {
    let good = [
        ("MEDLAKE__LAKE__WAREHOUSE", "s3://lake/shop"),
        ("MEDLAKE__LAKE__S3__ENDPOINT", "http://127.0.0.1:9000"),
        ("MEDLAKE__LAKE__S3__ALLOW_HTTP", "true"),
        ("MEDLAKE__LAKE__S3__ACCESS_KEY_ID", "medlake"),
        ("MEDLAKE__LAKE__S3__SECRET_ACCESS_KEY", "geheim"),
    ];
    let config = load(&good).unwrap();
    assert_eq!(config.lake.warehouse.to_string(), "s3://lake/shop");
    let expected = S3Credentials::Keys {
        access_key_id: "medlake".to_owned(),
        secret_access_key: Secret::new("geheim"),
        session_token: None,
    };
    assert_eq!(config.lake.s3.credentials, expected);
    assert!(!format!("{config} {config:?}").contains("geheim"));
    let problems = load(&good[..2]).unwrap_err();
    assert!(problems[0].contains("allow_http"), "{problems:?}");
    let problems = load(&[good[4], ("MEDLAKE__LAKE__WAREHOUSE", "lake")]).unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(!problems.join(" ").contains("geheim"), "{problems:?}");
}

#[test]
fn a_rest_catalog_takes_credentials_and_no_other_does() {
    let credentials = [
        ("MEDLAKE__LAKE__CATALOG_CLIENT_ID", "a"),
        ("MEDLAKE__LAKE__CATALOG_CLIENT_SECRET", "geheim"),
    ];
    let url = ("MEDLAKE__LAKE__CATALOG", "https://catalog.example");
    let config = load(&[&[url], &credentials[..]].concat()).unwrap();
    let CatalogConfig::Rest(rest) = &config.lake.catalog else { panic!("{config:?}") };
    assert!(matches!(&rest.auth, RestAuth::OAuth2 { scope, .. } if scope == "catalog"));
    assert!(!format!("{config:?}").contains("geheim"));
    let problems = load(&credentials).unwrap_err();
    assert!(problems[0].contains("no REST catalog"), "{problems:?}");
}

#[test]
fn what_is_printed_reads_back_to_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("medlake.yaml");
    let config = load(&[("MEDLAKE__LAKE__FLUSH_ROWS", "77"), ("MEDLAKE__DATA", "/x")]).unwrap();
    std::fs::write(&file, config.to_string()).unwrap();
    assert_eq!(Config::load(Some(&file), std::iter::empty(), &[]).unwrap(), config);
}

#[test]
fn a_file_is_overruled_by_the_environment_and_that_by_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("medlake.yaml");
    std::fs::write(&file, "simulate: {seed: 7, enabled: false}\nquery: {memory_mib: 100}\n")
        .unwrap();
    let env = [("MEDLAKE__SIMULATE__SEED".to_owned(), "8".to_owned())];
    let config =
        Config::load(Some(&file), env.into_iter(), &[("query.memory_mib", "200".to_owned())])
            .unwrap();
    assert!(!config.simulate.enabled);
    assert_eq!((config.simulate.seed, config.query.memory_mib), (8, 200));
}

#[test]
fn sources_are_added_and_taken_away_by_name() {
    let config = load(&[
        ("MEDLAKE__SOURCES__ERP__KIND", "mysql"),
        ("MEDLAKE__SOURCES__ERP__URL", "mysql://cdc:geheim@db.example/shop"),
        ("MEDLAKE__SOURCES__ERP__TABLES", "order*, !order_log"),
        ("MEDLAKE__SOURCES__ERP__TLS", "required"),
        ("MEDLAKE__SOURCES__CHRONIC_CARE__KIND", "none"),
    ])
    .unwrap();
    assert_eq!(config.sources.keys().collect::<Vec<_>>(), ["distribution", "erp", "mall"]);
    let SourceConfig::Mysql(erp) = &config.sources["erp"] else { panic!("{config:?}") };
    assert_eq!((erp.database.port, &erp.database.tables[1][..]), (3306, "!order_log"));
    assert!(!format!("{config} {config:?}").contains("geheim"));
    assert!(config.to_string().contains("url: mysql://cdc:***@db.example:3306/shop"), "{config}");

    let problems = load(&[
        ("MEDLAKE__SOURCES__ERP__KIND", "oracle"),
        ("MEDLAKE__SOURCES__CRM__KIND", "mysql"),
        ("MEDLAKE__SOURCES__CRM__URL", "mysql://cdc:geheim@db.example"),
        ("MEDLAKE__SOURCES__CRM__SERVER", "1"),
        ("MEDLAKE__SOURCES__SYSTEM__KIND", "none"),
        ("MEDLAKE__SOURCES__OTHER__KIND", "embedded"),
    ])
    .unwrap_err();
    assert_eq!(problems.len(), 5, "{problems:#?}");
    for part in ["oracle", "names no database", "crm.server", "no name of a source", "one of the"] {
        assert!(problems.iter().any(|p| p.contains(part)), "{part}: {problems:#?}");
    }
    assert!(!problems.join(" ").contains("geheim"), "{problems:?}");
}

#[test]
fn a_kafka_source_takes_its_own_settings_and_shows_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("medlake.yaml");
    let text = "sources:\n  his:\n    kind: kafka\n    brokers: kafka:9092\n    topics: [his.a, 'his.b*']\n    \
                discovery_s: 5\n    client: {sasl.password: geheim}\n    \
                debezium: {tables: {orders: {key: [id], columns: {amount: 'decimal(12,2)'}}}}\n";
    std::fs::write(&file, text).unwrap();
    let config = Config::load(Some(&file), std::iter::empty(), &[]).unwrap();
    let SourceConfig::Kafka(his) = &config.sources["his"] else { panic!("{config:?}") };
    assert!(his.topics.contains("his.b1") && his.topics.contains("his.a"));
    assert_eq!(
        (his.discovery_s, &his.debezium.tables["orders"].key[..]),
        (5, &["id".to_owned()][..])
    );
    assert_eq!(his.client.0["sasl.password"], "geheim");
    assert!(!format!("{config} {config:?}").contains("geheim"));

    // But for the secrets, what is printed reads back to the same.
    std::fs::write(&file, config.to_string().replace("***", "geheim")).unwrap();
    assert_eq!(Config::load(Some(&file), std::iter::empty(), &[]).unwrap(), config);

    let problems = load(&[
        ("MEDLAKE__SOURCES__HIS__KIND", "kafka"),
        ("MEDLAKE__SOURCES__HIS__BROKERS", "kafka:9092"),
        ("MEDLAKE__SOURCES__HIS__TOPIC", "his"),
    ])
    .unwrap_err();
    assert!(problems[0].contains("sources.his") && problems[0].contains("topic"), "{problems:?}");
}

#[test]
fn the_services_publish_where_that_is_said_and_show_no_secret() {
    assert_eq!(load(&[]).unwrap().operational.publish, None);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("medlake.yaml");
    let text = "operational:\n  publish:\n    brokers: kafka:9092\n    \
                client: {sasl.password: geheim}\n";
    std::fs::write(&file, text).unwrap();
    let config = Config::load(Some(&file), std::iter::empty(), &[]).unwrap();
    let publish = config.operational.publish.as_ref().unwrap();
    assert_eq!((publish.prefix.as_str(), publish.partitions), ("medlake", 1));
    assert_eq!(publish.client.0["sasl.password"], "geheim");
    assert!(!format!("{config} {config:?}").contains("geheim"));
    std::fs::write(&file, config.to_string().replace("***", "geheim")).unwrap();
    assert_eq!(Config::load(Some(&file), std::iter::empty(), &[]).unwrap(), config);

    let problems = load(&[
        ("MEDLAKE__OPERATIONAL__PUBLISH__PREFIX", "über"),
        ("MEDLAKE__OPERATIONAL__PUBLISH__CLIENT__ACKS", "1"),
        ("MEDLAKE__OPERATIONAL__PUBLISH__BROKER", "kafka:9092"),
    ])
    .unwrap_err();
    assert_eq!(problems.len(), 3, "{problems:#?}");
}
