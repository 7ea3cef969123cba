use super::*;
use std::collections::BTreeSet;

fn any_matcher() -> impl Strategy<Value = Matcher> {
    let value = prop_oneof![
        Just(String::new()),
        Just("missing".to_owned()),
        "[a-c]{1,2}",
        "(a|b)?|c|node-[0-3]|node-.*|.*|.+|[ab]+|.*-1|é|(?:a|node-2)|a\\|b|a?",
    ];
    let op = prop_oneof![
        Just(MatchOp::Equal),
        Just(MatchOp::NotEqual),
        Just(MatchOp::Regex),
        Just(MatchOp::NotRegex)
    ];
    ("(__name__|A|a|b|job|instance|none)", op, value)
        .prop_filter_map("a bad expression", |(name, op, value)| Matcher::new(name, op, value).ok())
}

fn fleet() -> Vec<Series> {
    let metrics = ["go_goroutines", "http_requests_total", "node_cpu_seconds_total", "up"];
    let mut series = Vec::new();
    for host in 0..2_500 {
        for (at, metric) in metrics.iter().enumerate() {
            if (host + at) % 3 == 0 {
                continue;
            }
            let host_name = format!("host-{host:04}.example");
            let mut pairs =
                vec![("__name__", *metric), ("instance", &host_name), ("job", ["node", "api"][host % 2])];
            if host % 5 == 0 {
                pairs.push(("env", "dev"));
            }
            series.push(Series {
                tenant: TenantId(3),
                labels: labels(&pairs),
                samples: vec![float(1_000, host as f64)],
            });
        }
    }
    series
}

#[test]
fn a_fleet_is_selected_by_every_kind_of_matcher() {
    let series = fleet();
    let dir = tempfile::tempdir().unwrap();
    for kv in [mem().1, Arc::new(RocksKv::open(dir.path(), &KvOptions::default()).unwrap())] {
        check_fleet(&kv, &series);
    }
}

fn check_fleet(kv: &Arc<dyn Kv>, series: &[Series]) {
    let reader = open(kv, &write(kv.as_ref(), spec(1, 0), series, 10));
    let ops =
        [("=", MatchOp::Equal), ("!=", MatchOp::NotEqual), ("=~", MatchOp::Regex), ("!~", MatchOp::NotRegex)];
    let matcher = |text: &str| {
        let at = text.find(['=', '!']).unwrap();
        let (op_text, op) = *ops.iter().rev().find(|(op, _)| text[at..].starts_with(op)).unwrap();
        Matcher::new(&text[..at], op, &text[at + op_text.len()..]).unwrap()
    };
    for texts in [
        &["__name__=up"][..],
        &["__name__=up", "instance=host-0013.example"],
        &["__name__=~up|go_goroutines", "job=node"],
        &["instance=~host-01.*", "job!=api"],
        &["instance=~.*7\\.example"],
        &["instance=~.*7\\.example", "__name__=up"],
        &["instance!~.*7\\.example", "__name__=up", "env=dev"],
        &["env!=dev"],
        &["env="],
        &["env!="],
        &["env=~.*"],
        &["env=~.+"],
        &["env=~dev|"],
        &["env!~dev|"],
        &["env!~.+"],
        &["none=", "__name__=up"],
        &["none!="],
        &["none=~a|", "job=~a.i"],
        &["instance=~host-00[0-9]{2}.*", "env!~d.v", "__name__!=up"],
        &["__name__=up", "instance=~.*99.*", "instance!~.*1.*"],
        &[],
    ] {
        let matchers: Vec<Matcher> = texts.iter().map(|text| matcher(text)).collect();
        check_select(&reader, series, TenantId(3), &matchers);
        check_select(&reader, series, TenantId(4), &matchers);
    }
}

#[test]
fn counts_names_and_values_are_exact() {
    let (_, kv) = mem();
    let series = fleet();
    let meta = write(kv.as_ref(), spec(1, 0), &series, 10);
    let reader = open(&kv, &meta);
    let stats = reader.stats(TenantId(3)).unwrap();
    assert_eq!((stats.series as usize, stats.samples as usize), (series.len(), series.len()));
    assert_eq!(
        stats.names.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(),
        ["__name__", "env", "instance", "job"]
    );
    assert_eq!(stats.names.iter().map(|n| n.values).collect::<Vec<_>>(), [4, 1, 2_500, 2]);
    let with =
        |name: &str, value: &str| series.iter().filter(|s| s.labels.get(name) == Some(value)).count() as u32;
    assert_eq!(stats.names[1].series, with("env", "dev"));
    for pair in &stats.pairs {
        assert_eq!(pair.series, with(&pair.name, &pair.value), "{pair:?}");
    }
    assert!(stats.pairs.is_sorted_by(|a, b| a.series >= b.series));
    assert_eq!(stats.pairs.len(), 1_000);
    assert_eq!(reader.stats(TenantId(4)).unwrap(), TenantStats::default());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn selections_equal_a_plain_filter(
        series in any_series(),
        queries in prop::collection::vec(prop::collection::vec(any_matcher(), 0..4), 1..6),
    ) {
        let (_, kv) = mem();
        let reader = open(&kv, &write(kv.as_ref(), spec(5, 0), &series, 20));
        for matchers in &queries {
            for tenant in [0, 7, 14, 21] {
                check_select(&reader, &series, TenantId(tenant), matchers);
            }
        }
    }

    #[test]
    fn label_names_and_values_equal_a_plain_list(series in any_series(), matchers in prop::collection::vec(any_matcher(), 0..3)) {
        let (_, kv) = mem();
        let reader = open(&kv, &write(kv.as_ref(), spec(5, 0), &series, 20));
        let tenant = TenantId(7);
        let among = reader.select(tenant, &matchers).unwrap();
        let all = expected(&series, tenant, &[]);
        for (labels, among) in [(all, None), (expected(&series, tenant, &matchers), Some(&among))] {
            let names: BTreeSet<&str> = labels.iter().flat_map(|l| l.iter().map(|(name, _)| name)).collect();
            prop_assert_eq!(reader.label_names(tenant, among).unwrap(), names.into_iter().collect::<Vec<_>>());
            for name in ["__name__", "A", "job", "none"] {
                let values: BTreeSet<&str> = labels.iter().filter_map(|l| l.get(name)).collect();
                prop_assert_eq!(reader.label_values(tenant, name, among).unwrap(), values.into_iter().collect::<Vec<_>>());
            }
        }
    }
}
