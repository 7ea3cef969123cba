//! Resources, scopes, tenants and `target_info`.

use super::*;

const IDENTITY: [(&str, &str); 3] =
    [("service.name", "api"), ("service.namespace", "shop"), ("service.instance.id", "i-1")];

fn settings(change: impl FnOnce(&mut OtlpSettings)) -> OtlpSettings {
    let mut settings = OtlpSettings::default();
    change(&mut settings);
    settings
}

fn with_more(more: &[(&str, &str)]) -> String {
    of_resource(&attributes(&[&IDENTITY[..], more].concat()))
}

#[test]
fn the_identity_becomes_job_and_instance_alone() {
    check_samples(&with_more(&[]), &OtlpSettings::default(), &["g{instance=i-1, job=shop/api} 1 @5"]);
    let only_name = of_resource(&attributes(&[("service.name", "api")]));
    check_samples(&only_name, &OtlpSettings::default(), &["g{job=api} 1 @5"]);
    let only_namespace = of_resource(&attributes(&[("service.namespace", "shop")]));
    check_samples(&only_namespace, &OtlpSettings::default(), &["g{} 1 @5"]);
}

#[test]
fn other_attributes_stand_in_target_info() {
    let message = with_more(&[("host.name", "h1"), ("k8s.pod", "p")]);
    let series = "g{instance=i-1, job=shop/api} 1 @5";
    let info = "target_info{host_name=h1, instance=i-1, job=shop/api, k8s_pod=p} 1 @5";
    check_samples(&message, &OtlpSettings::default(), &[series, info]);
    let body = from_json(&message, &OtlpSettings::default()).bodies.remove(0).body;
    assert_eq!(metadata(&body), ["g gauge \"\" ", "target_info gauge \"Target metadata\" "]);
    let keeping = settings(|s| s.keep_identifying_resource_attributes = true);
    let info = "target_info{host_name=h1, instance=i-1, job=shop/api, k8s_pod=p, service_instance_id=i-1, \
                service_name=api, service_namespace=shop} 1 @5";
    check_samples(&message, &keeping, &[series, info]);
    check_samples(&with_more(&[]), &keeping, &[series]);
}

#[test]
fn target_info_needs_an_identity() {
    check_samples(&of_resource(&attributes(&[("host.name", "h1")])), &OtlpSettings::default(), &["g{} 1 @5"]);
}

/// One resource with a gauge at each of `times_ms`.
fn at_times(times_ms: &[u64]) -> String {
    let points: Vec<String> =
        times_ms.iter().map(|ms| format!(r#"{{"timeUnixNano": "{ms}000000", "asInt": "1"}}"#)).collect();
    let gauge = format!(r#"{{"name": "g", "gauge": {{"dataPoints": [{}]}}}}"#, points.join(","));
    let attributes = attributes(&[("service.name", "a"), ("host.name", "h")]);
    format!(r#"{{"resource": {{"attributes": [{attributes}]}}, "scopeMetrics": [{{"metrics": [{gauge}]}}]}}"#)
}

fn info_times(message: &str) -> Vec<i64> {
    let body = from_json(message, &OtlpSettings::default()).bodies.remove(0).body;
    let request = parsed(&body);
    let names = names(&body, &request);
    let is_info = |index: &usize| names[*index].starts_with("target_info");
    let places = (0..names.len()).filter(is_info).flat_map(|index| request.samples_of(index));
    places.map(|at| request.ts_ms[at]).collect()
}

#[test]
fn target_info_reaches_from_the_first_to_the_last_point() {
    let message = format!(r#"{{"resourceMetrics": [{}]}}"#, at_times(&[400_000, 10, 5_000]));
    assert_eq!(info_times(&message), [10, 150_010, 300_010, 400_000]);
    let twice = format!(r#"{{"resourceMetrics": [{}, {}]}}"#, at_times(&[10, 20]), at_times(&[20, 30]));
    assert_eq!(info_times(&twice), [10, 20, 30]);
    let year = 365 * 86_400_000;
    let long = format!(r#"{{"resourceMetrics": [{}]}}"#, at_times(&[10, year]));
    let times = info_times(&long);
    assert_eq!((times.len(), times[0], times[288]), (289, year as i64 - 12 * 3_600_000, year as i64));
}

#[test]
fn promoted_attributes_are_labels_of_every_series() {
    let message = with_more(&[("host.name", "h1"), ("zone", "z")]);
    let info = "target_info{host_name=h1, instance=i-1, job=shop/api, zone=z} 1 @5";
    let listed = settings(|s| s.promote_resource_attributes = vec!["zone".to_owned(), "gone".to_owned()]);
    check_samples(&message, &listed, &["g{instance=i-1, job=shop/api, zone=z} 1 @5", info]);
    let all = settings(|s| {
        s.promote_all_resource_attributes = true;
        s.ignore_resource_attributes = vec!["zone".to_owned()];
    });
    let series = "g{host_name=h1, instance=i-1, job=shop/api, service_instance_id=i-1, service_name=api, \
                  service_namespace=shop} 1 @5";
    check_samples(&message, &all, &[series, info]);
}

/// A message of one gauge whose point has `own` attributes.
fn with_own(resource: &[(&str, &str)], scope: &str, own: &[(&str, &str)]) -> String {
    format!(
        r#"{{"resourceMetrics": [{{"resource": {{"attributes": [{}]}}, "scopeMetrics": [{{{scope} "metrics": [
        {{"name": "g", "gauge": {{"dataPoints": [{{"timeUnixNano": "5000000", "asInt": 1,
        "attributes": [{}]}}]}}}}]}}]}}]}}"#,
        attributes(resource),
        attributes(own)
    )
}

#[test]
fn of_two_labels_with_one_name_the_rules_tell_which_stays() {
    let all = settings(|s| s.promote_all_resource_attributes = true);
    let message =
        with_own(&[("service.name", "api"), ("zone", "far")], "", &[("zone", "near"), ("job", "mine")]);
    let told = from_json(&message, &all).bodies.remove(0).body;
    assert_eq!(samples(&told)[0], "g{job=api, service_name=api, zone=near} 1 @5");
    // An empty attribute is no label, so the promoted one stands.
    let message = with_own(&[("zone", "far")], "", &[("zone", "")]);
    check_samples(&message, &all, &["g{zone=far} 1 @5"]);
}

#[test]
fn attributes_with_one_label_name_are_joined_in_the_order_of_their_names() {
    let own = [("a_b", "3"), ("a.b", "1"), ("a/b", "2"), ("c", "x")];
    let message = with_own(&[], "", &own);
    check_samples(&message, &OtlpSettings::default(), &["g{a_b=1;2;3, c=x} 1 @5"]);
    let unescaped = settings(|s| s.translation_strategy = TranslationStrategy::NoTranslation);
    check_samples(&message, &unescaped, &["g{a.b=1, a/b=2, a_b=3, c=x} 1 @5"]);
    let with_empty = with_own(&[], "", &[("a.b", ""), ("a/b", "2"), ("a_b", "")]);
    check_samples(&with_empty, &OtlpSettings::default(), &["g{a_b=2;} 1 @5"]);
}

#[test]
fn scopes_are_promoted_if_asked_and_named() {
    let scope = format!(
        r#""scope": {{"name": "lib", "version": "1.2", "attributes": [{}]}}, "schemaUrl": "http://s","#,
        attributes(&[("a.b", "x"), ("version", "no")])
    );
    let message = with_own(&[], &scope, &[("otel_scope_name", "mine")]);
    check_samples(&message, &OtlpSettings::default(), &["g{otel_scope_name=mine} 1 @5"]);
    let promoting = settings(|s| s.promote_scope_metadata = true);
    let expected = "g{otel_scope_a_b=x, otel_scope_name=lib, otel_scope_schema_url=http://s, \
                    otel_scope_version=1.2} 1 @5";
    check_samples(&message, &promoting, &[expected]);
    let nameless = with_own(&[], r#""scope": {"version": "1.2"},"#, &[]);
    check_samples(&nameless, &promoting, &["g{} 1 @5"]);
}

#[test]
fn a_resource_attribute_without_a_label_name_costs_what_needs_it() {
    let message = with_more(&[("__", "x")]);
    let translated = from_json(&message, &OtlpSettings::default());
    assert_eq!(translated.dropped.points, 0);
    let warning = "no label name can be made of the resource attribute \"__\", so target_info is not written";
    assert_eq!(translated.dropped.first.as_deref(), Some(warning));
    assert_eq!(samples(&translated.bodies[0].body), ["g{instance=i-1, job=shop/api} 1 @5"]);
    let all = settings(|s| s.promote_all_resource_attributes = true);
    let reason = "metric \"g\": no label name can be made of the resource attribute \"__\"";
    check_dropped(&message, &all, 1, reason, &[]);
}

#[test]
fn each_tenant_gets_a_body_of_its_own() {
    let resource = |tenant: Option<&str>, name: &str| {
        let gauge = r#"{"metrics": [{"name": "g", "gauge": {"dataPoints": [
            {"timeUnixNano": "5000000", "asInt": "1"}]}}]}"#;
        let mut pairs = vec![("service.name", name)];
        pairs.extend(tenant.map(|tenant| ("tenant.id", tenant)));
        let attributes = attributes(&pairs);
        format!(r#"{{"resource": {{"attributes": [{attributes}]}}, "scopeMetrics": [{gauge}]}}"#)
    };
    let resources =
        [resource(Some("b"), "1"), resource(None, "2"), resource(Some("a"), "3"), resource(Some("b"), "4")];
    let message = format!(r#"{{"resourceMetrics": [{}]}}"#, resources.join(","));
    let by = |attribute| {
        let translated =
            translate(Encoding::Json, message.as_bytes(), &OtlpSettings::default(), attribute, LIMITS);
        let line = |body: &TenantBody| {
            let jobs = samples(&body.body).into_iter().filter(|line| line.starts_with("g{"));
            (body.tenant.clone(), jobs.collect::<Vec<_>>().join(" "))
        };
        translated.unwrap().bodies.iter().map(line).collect::<Vec<_>>()
    };
    let told = |tenant: Option<&str>, jobs: &str| (tenant.map(str::to_owned), jobs.to_owned());
    assert_eq!(
        by(Some("tenant.id")),
        [
            told(Some("b"), "g{job=1} 1 @5 g{job=4} 1 @5"),
            told(None, "g{job=2} 1 @5"),
            told(Some("a"), "g{job=3} 1 @5"),
        ]
    );
    assert_eq!(by(None), [told(None, "g{job=1} 1 @5 g{job=2} 1 @5 g{job=3} 1 @5 g{job=4} 1 @5")]);
}
