//! Compares two answers of the Prometheus query API: equal label sets, equal times, values to 1e-9.

use serde_json::Value;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Largest relative difference between two values that count as equal.
pub const TOLERANCE: f64 = 1e-9;

/// What one answer holds: for each label set its samples as (time as text, value as text).
type Rows = BTreeMap<String, Vec<(String, String)>>;

/// How two answers compare.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Equal, with this many samples.
    Equal(usize),
    /// Different, and where first.
    Different(String),
}

/// Compares the `data` of two successful answers to one query.
pub fn compare(expected: &Value, got: &Value) -> Verdict {
    if expected["resultType"] != got["resultType"] {
        return Verdict::Different(format!("type {} and {}", expected["resultType"], got["resultType"]));
    }
    let (expected, got) = match (rows(expected), rows(got)) {
        (Ok(expected), Ok(got)) => (expected, got),
        (Err(labels), _) => {
            return Verdict::Different(format!("{labels} is there twice in what is expected"));
        }
        (_, Err(labels)) => return Verdict::Different(format!("{labels} is there twice")),
    };
    let missing = expected.keys().find(|labels| !got.contains_key(*labels));
    if let Some(labels) = missing {
        return Verdict::Different(format!(
            "{labels} is missing; {} and {} series",
            expected.len(),
            got.len()
        ));
    }
    if let Some(labels) = got.keys().find(|labels| !expected.contains_key(*labels)) {
        return Verdict::Different(format!(
            "{labels} is too much; {} and {} series",
            expected.len(),
            got.len()
        ));
    }
    let mut samples = 0;
    for (labels, row) in &expected {
        if let Some(difference) = row_difference(row, &got[labels]) {
            return Verdict::Different(format!("{labels}: {difference}"));
        }
        samples += row.len();
    }
    Verdict::Equal(samples)
}

fn row_difference(expected: &[(String, String)], got: &[(String, String)]) -> Option<String> {
    if expected.len() != got.len() {
        return Some(format!("{} and {} samples", expected.len(), got.len()));
    }
    let mut pairs = expected.iter().zip(got);
    let (e, g) = pairs.find(|(e, g)| e.0 != g.0 || !is_same_value(&e.1, &g.1))?;
    Some(format!("expected {} at {}, got {} at {}", e.1, e.0, g.1, g.0))
}

/// Whether two values as the API writes them are equal to [`TOLERANCE`]; any NaN equals any NaN.
pub fn is_same_value(expected: &str, got: &str) -> bool {
    let (Ok(a), Ok(b)) = (expected.parse::<f64>(), got.parse::<f64>()) else { return expected == got };
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= TOLERANCE * a.abs().max(b.abs())
}

/// The rows of an answer, or the first label set that it has twice.
fn rows(data: &Value) -> Result<Rows, String> {
    let result = &data["result"];
    let mut rows = Rows::new();
    let is_series = matches!(data["resultType"].as_str(), Some("vector" | "matrix"));
    if !is_series {
        rows.insert(String::new(), vec![pair(result)]);
        return Ok(rows);
    }
    for row in result.as_array().map_or(&[][..], Vec::as_slice) {
        // serde_json keeps objects sorted by key, so equal label sets have equal text.
        let labels = row["metric"].to_string();
        let mut samples: Vec<(String, String)> = Vec::new();
        for lane in ["value", "histogram"] {
            samples.extend(row.get(lane).map(pair));
        }
        for lane in ["values", "histograms"] {
            samples.extend(row[lane].as_array().map_or(&[][..], Vec::as_slice).iter().map(pair));
        }
        match rows.entry(labels) {
            Entry::Vacant(place) => place.insert(samples),
            Entry::Occupied(place) => return Err(place.key().clone()),
        };
    }
    Ok(rows)
}

fn pair(sample: &Value) -> (String, String) {
    let time = sample[0].as_f64().map_or_else(|| sample[0].to_string(), |t| format!("{t:.3}"));
    let value = sample[1].as_str().map_or_else(|| sample[1].to_string(), str::to_owned);
    (time, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn vector(rows: &[(&str, &str)]) -> Value {
        let rows: Vec<Value> =
            rows.iter().map(|(job, v)| json!({"metric": {"job": job}, "value": [1.5, v]})).collect();
        json!({"resultType": "vector", "result": rows})
    }

    #[test]
    fn order_and_the_last_digits_do_not_matter() {
        let (a, b) = (vector(&[("a", "1"), ("b", "NaN")]), vector(&[("b", "NaN"), ("a", "1.0000000001")]));
        assert_eq!(compare(&a, &b), Verdict::Equal(2));
    }

    #[test]
    fn a_label_set_that_is_there_twice_matters() {
        let (once, twice) = (vector(&[("a", "1")]), vector(&[("a", "2"), ("a", "1")]));
        for (expected, got) in [(&once, &twice), (&twice, &once), (&twice, &twice)] {
            assert!(matches!(compare(expected, got), Verdict::Different(_)), "{expected} {got}");
        }
    }

    #[test]
    fn values_labels_and_counts_matter() {
        let a = vector(&[("a", "1")]);
        for b in
            [vector(&[("a", "1.00001")]), vector(&[("c", "1")]), vector(&[]), json!({"resultType": "matrix"})]
        {
            assert!(matches!(compare(&a, &b), Verdict::Different(_)), "{b}");
            assert!(matches!(compare(&b, &a), Verdict::Different(_)), "{b}");
        }
    }
}
