use super::*;
use quorate_kv::KvRead;
use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::Path;

/// A block with two tenants, two shapes, both lanes, starts, a shared column of times and several handles.
fn sample_block(kv: &dyn Kv) -> BlockMeta {
    let times = |value: f64| (0..5).map(|t| float(t * 15_000, value + t as f64)).collect::<Vec<_>>();
    let series = |tenant, pairs: &[(&str, &str)], samples| Series {
        tenant: TenantId(tenant),
        labels: labels(pairs),
        samples,
    };
    let mut mixed = times(0.25);
    mixed[2] = Sample { ts_ms: 30_000, value: Value::Histogram(7), start_ms: 0 };
    mixed[4].start_ms = 59_000;
    let given = [
        series(1, &[("__name__", "up"), ("job", "a")], times(1.0)),
        series(1, &[("__name__", "up"), ("job", "b")], times(2.0)),
        series(1, &[("__name__", "up"), ("env", "dev"), ("job", "b")], times(3.0)),
        series(1, &[("A", "x"), ("__name__", "down")], mixed),
        series(9, &[], times(4.0)),
    ];
    write(kv, spec(5, 2), &given, 120)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_block_has_the_bytes_of_its_format() {
    let (mem, kv) = mem();
    let meta = sample_block(kv.as_ref());
    let mut text = format!("cat {}\n", hex(&meta.encode()));
    for cf in [Cf::Page, Cf::Idx] {
        mem.scan(cf, &KeyRange::all(), &mut |key, value| {
            writeln!(text, "{cf} {} {}", hex(key), hex(value)).unwrap();
            ControlFlow::Continue(())
        })
        .unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("block/golden/block-1.txt");
    if std::env::var_os("QUORATE_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(kept, text, "the bytes of a block have changed: a stored format needs a new version");
}
