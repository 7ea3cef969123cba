//! Which tenant the samples of a record belong to.
//!
//! Knows records and what an OTLP resource names. Does not know which names tenants may have.
//! Path: [`super::decode`] -> **here**.

use quorate_commitlog::kafka::source::Record;
use regex::Regex;
use std::borrow::Cow;

/// Name of the group of a regular expression that is the tenant; without it the first group is.
const GROUP: &str = "tenant";

/// Where the name of the tenant comes from.
#[derive(Debug, Clone)]
pub enum TenantFrom {
    /// It is the same for all records.
    Fixed,
    /// The value of a header of the record.
    Header(String),
    /// What the group `tenant`, or else the first group, of an expression finds in the name of the topic.
    Topic(Regex),
    /// The value of an attribute of each OTLP resource.
    Attribute(String),
}

/// How a source finds the tenant.
#[derive(Debug, Clone)]
pub struct TenantRule {
    /// Where its name comes from.
    pub from: TenantFrom,
    /// The tenant if nothing names one; `None` refuses the record.
    pub default: Option<String>,
}

impl TenantRule {
    /// The resource attribute that names it.
    pub(super) fn attribute(&self) -> Option<&str> {
        match &self.from {
            TenantFrom::Attribute(name) => Some(name),
            _ => None,
        }
    }

    /// The tenant of a record whose resource names `named`.
    ///
    /// # Errors
    /// Why it has none, in words.
    pub(super) fn find<'a>(
        &'a self,
        record: &'a Record,
        named: Option<&'a str>,
    ) -> Result<Cow<'a, str>, String> {
        let found = match &self.from {
            TenantFrom::Fixed => None,
            TenantFrom::Header(name) => record.header(name).map(String::from_utf8_lossy),
            TenantFrom::Topic(pattern) => pattern.captures(&record.topic).and_then(|found| {
                let group = found.name(GROUP).or_else(|| found.get(1))?;
                Some(Cow::Borrowed(group.as_str()))
            }),
            TenantFrom::Attribute(_) => named.map(Cow::Borrowed),
        };
        let found = found.filter(|name| !name.is_empty()).or(self.default.as_deref().map(Cow::Borrowed));
        found.ok_or_else(|| match &self.from {
            TenantFrom::Fixed => "no tenant is set".to_owned(),
            TenantFrom::Header(name) => format!("no tenant: the record has no header {name:?}"),
            TenantFrom::Topic(pattern) => {
                format!("no tenant: the topic {:?} does not match {:?}", record.topic, pattern.as_str())
            }
            TenantFrom::Attribute(name) => format!("no tenant: a resource has no attribute {name:?}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::record;
    use super::*;

    #[track_caller]
    fn check(from: TenantFrom, default: Option<&str>, named: Option<&str>, expected: Result<&str, &str>) {
        let rule = TenantRule { from, default: default.map(str::to_owned) };
        let mut record = record(0, b"");
        record.topic = "metrics.team-a.prod".into();
        record.headers[0].name = "X-Scope-OrgID".to_owned();
        match (rule.find(&record, named), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(reason), Err(part)) => assert!(reason.contains(part), "{reason}"),
            (found, _) => panic!("{found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn the_tenant_comes_from_where_the_rule_says() {
        let topic = |pattern| TenantFrom::Topic(Regex::new(pattern).unwrap());
        check(TenantFrom::Fixed, Some("a"), Some("b"), Ok("a"));
        check(TenantFrom::Header("x-scope-orgid".to_owned()), Some("a"), None, Ok("from-header"));
        check(TenantFrom::Header("other".to_owned()), Some("a"), None, Ok("a"));
        check(TenantFrom::Header("other".to_owned()), None, None, Err("no header \"other\""));
        check(topic(r"^metrics\.([^.]+)"), None, None, Ok("team-a"));
        check(topic(r"^(metrics)\.(?<tenant>[^.]+)"), None, None, Ok("team-a"));
        check(topic(r"^logs\.(.*)"), None, None, Err("does not match"));
        check(TenantFrom::Attribute("k".to_owned()), Some("a"), Some("b"), Ok("b"));
        check(TenantFrom::Attribute("k".to_owned()), Some("a"), Some(""), Ok("a"));
        check(TenantFrom::Attribute("k".to_owned()), None, None, Err("no attribute \"k\""));
    }
}
