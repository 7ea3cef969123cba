//! Selection: matchers to ordinals.
//!
//! A matcher that refuses the empty value keeps series by their postings; one that accepts it removes those
//! whose value it refuses, so that series without the label stay. Cheap tests come first; when few
//! candidates are left, the rest is tried on their labels instead of on every value of the name.

use super::label_reader::LabelReader;
use super::names::{self, NameIndex};
use super::reader::BlockReader;
use super::tenant::TenantIndex;
use super::values::{self, Text};
use crate::StoreError;
use quorate_model::{MatchOp, Matcher, TenantId};
use roaring::RoaringBitmap;

/// Candidates below which an expression is tried on their labels, if the name has many more values.
const TRY_LABELS: u64 = 1_000;
const VALUES_PER_CANDIDATE: u64 = 8;

/// The ordinals of a tenant's series that pass every matcher.
pub(super) fn select(
    reader: &BlockReader,
    tenant: TenantId,
    index: &TenantIndex,
    matchers: &[Matcher],
) -> Result<RoaringBitmap, StoreError> {
    let mut found = names::all(index.series());
    let mut plan = Vec::with_capacity(matchers.len());
    for matcher in matchers {
        match index.name_id(matcher.name()) {
            // Without the name every series has the empty value.
            None if matcher.matches_empty() => {}
            None => return Ok(RoaringBitmap::new()),
            Some(id) => plan.push((cost(matcher), id, matcher)),
        }
    }
    plan.sort_by_key(|(cost, ..)| *cost);
    for (cost, name_id, matcher) in plan {
        if found.is_empty() {
            break;
        }
        let name = reader.name(tenant, index, name_id)?;
        let few = found.len() < TRY_LABELS && found.len() * VALUES_PER_CANDIDATE < u64::from(name.len());
        if cost == Cost::Expression && few {
            found = try_labels(reader, tenant, matcher, &found)?;
        } else {
            apply(reader, tenant, index, (name_id, &name), matcher, &mut found)?;
        }
    }
    Ok(found)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cost {
    KeepLookup,
    KeepPrefix,
    DropLookup,
    Expression,
}

fn cost(matcher: &Matcher) -> Cost {
    match Text::of(matcher) {
        Text::OneOf(_) if matcher.matches_empty() => Cost::DropLookup,
        Text::OneOf(_) => Cost::KeepLookup,
        Text::Prefix { .. } => Cost::KeepPrefix,
        Text::Expression => Cost::Expression,
    }
}

fn apply(
    reader: &BlockReader,
    tenant: TenantId,
    index: &TenantIndex,
    (name_id, name): (u32, &NameIndex),
    matcher: &Matcher,
    found: &mut RoaringBitmap,
) -> Result<(), StoreError> {
    let ids = values::accepted(name, matcher).ok_or_else(|| reader.damaged_name(tenant, name_id))?;
    let accepted = if ids.len() == name.len() as usize {
        name.present()
    } else {
        reader.union(tenant, index, (name_id, name), &ids)?
    };
    let negative = matches!(matcher.op(), MatchOp::NotEqual | MatchOp::NotRegex);
    match (matcher.matches_empty(), negative) {
        (false, false) => *found &= accepted,
        (false, true) => *found &= name.present() - accepted,
        (true, false) => *found -= name.present() - accepted,
        (true, true) => *found -= accepted,
    }
    Ok(())
}

fn try_labels(
    reader: &BlockReader,
    tenant: TenantId,
    matcher: &Matcher,
    candidates: &RoaringBitmap,
) -> Result<RoaringBitmap, StoreError> {
    let mut labels: LabelReader<'_> = reader.label_reader(tenant)?;
    let mut found = RoaringBitmap::new();
    for ordinal in candidates {
        if matcher.matches(labels.value(ordinal, matcher.name())?) {
            found.insert(ordinal);
        }
    }
    Ok(found)
}
