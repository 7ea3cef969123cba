//! The metric families of the two kinds of target, and how their values move.
//!
//! The mix follows what real clusters send: a quarter constants, a quarter histogram buckets, then integer
//! and float counters, sparse counters, byte gauges, gauges of two and three decimals, percentages, ratios.

/// How the values of a series move from scrape to scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Never changes.
    Constant(u32),
    /// Counts up by up to this much.
    Counter(u32),
    /// Counts up in steps of 0.01, by up to this many.
    CentiCounter(u32),
    /// Counts up in steps of a microsecond, by up to this many.
    MicroCounter(u32),
    /// Counts up by one, about every hundredth scrape.
    SparseCounter,
    /// Moves by whole pages of 4 KiB around this many pages.
    Bytes(u32),
    /// Moves around this many hundredths.
    Gauge2(u32),
    /// Moves around this many thousandths.
    Gauge3(u32),
    /// Tenths of a percent, 0 to 100.
    Percent,
    /// A quotient of two counts.
    Ratio,
    /// A random walk of full precision.
    Walk,
    /// Bucket number n of a classic histogram; the buckets of one histogram follow each other.
    Bucket(usize),
    /// Sum of the histogram whose buckets came last.
    BucketSum,
    /// Count of the histogram whose buckets came last.
    BucketCount,
}

impl Kind {
    /// Whether a restart of the target sets it back to zero.
    pub fn is_counter(self) -> bool {
        !matches!(
            self,
            Self::Constant(_)
                | Self::Bytes(_)
                | Self::Gauge2(_)
                | Self::Gauge3(_)
                | Self::Percent
                | Self::Ratio
                | Self::Walk
        )
    }
}

/// One series of a target: metric name, labels beyond the target's own, movement.
#[derive(Debug, Clone)]
pub struct Template {
    /// Metric name.
    pub name: &'static str,
    /// At most two labels.
    pub labels: Vec<(&'static str, String)>,
    /// Movement.
    pub kind: Kind,
}

const BOUNDS: [&str; 12] =
    ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf"];

/// What a machine's exporter shows.
pub fn machine() -> Vec<Template> {
    let mut all =
        vec![one("up", Kind::Constant(1)), one("node_boot_time_seconds", Kind::Constant(1_763_000_000))];
    for cpu in 0..4 {
        for (mode, most) in [
            ("idle", 1_450),
            ("user", 300),
            ("system", 120),
            ("iowait", 20),
            ("irq", 0),
            ("nice", 0),
            ("softirq", 9),
            ("steal", 0),
        ] {
            let labels = vec![("cpu", cpu.to_string()), ("mode", mode.to_owned())];
            all.push(Template { name: "node_cpu_seconds_total", labels, kind: Kind::CentiCounter(most) });
        }
    }
    for device in ["eth0", "eth1", "lo"] {
        all.extend(each(
            device,
            "device",
            &[
                ("node_network_receive_bytes_total", Kind::Counter(9_000_000)),
                ("node_network_transmit_bytes_total", Kind::Counter(4_000_000)),
                ("node_network_receive_packets_total", Kind::Counter(12_000)),
                ("node_network_transmit_packets_total", Kind::Counter(9_000)),
                ("node_network_receive_drop_total", Kind::SparseCounter),
                ("node_network_receive_errs_total", Kind::SparseCounter),
                ("node_network_up", Kind::Constant(1)),
                ("node_network_mtu_bytes", Kind::Constant(1_500)),
            ],
        ));
    }
    for device in ["nvme0n1", "nvme1n1"] {
        all.extend(each(
            device,
            "device",
            &[
                ("node_disk_io_time_seconds_total", Kind::MicroCounter(4_000_000)),
                ("node_disk_read_time_seconds_total", Kind::MicroCounter(900_000)),
                ("node_disk_reads_completed_total", Kind::Counter(800)),
                ("node_disk_written_bytes_total", Kind::Counter(30_000_000)),
            ],
        ));
    }
    for mount in ["/", "/var/lib/containers", "/boot"] {
        all.extend(each(
            mount,
            "mountpoint",
            &[
                ("node_filesystem_size_bytes", Kind::Constant(2_000_000_000)),
                ("node_filesystem_avail_bytes", Kind::Bytes(9_000_000)),
                ("node_filesystem_files", Kind::Constant(6_553_600)),
                ("node_filesystem_readonly", Kind::Constant(0)),
            ],
        ));
    }
    for (name, kind) in [
        ("node_memory_MemTotal_bytes", Kind::Constant(4_000_000_000)),
        ("node_memory_MemAvailable_bytes", Kind::Bytes(500_000)),
        ("node_memory_MemFree_bytes", Kind::Bytes(200_000)),
        ("node_memory_Cached_bytes", Kind::Bytes(300_000)),
        ("node_memory_Dirty_bytes", Kind::Bytes(300)),
        ("node_memory_SwapTotal_bytes", Kind::Constant(0)),
        ("node_load1", Kind::Gauge2(180)),
        ("node_load5", Kind::Gauge2(170)),
        ("node_load15", Kind::Gauge2(160)),
        ("node_context_switches_total", Kind::Counter(90_000)),
        ("node_hwmon_temp_celsius", Kind::Gauge3(52_000)),
        ("node_filefd_allocated", Kind::Counter(2)),
        ("node_entropy_available_bits", Kind::Constant(256)),
        ("node_timex_offset_seconds", Kind::Walk),
    ] {
        all.push(one(name, kind));
    }
    all
}

/// What a pod shows by itself and through the kubelet and kube-state-metrics.
pub fn pod() -> Vec<Template> {
    let mut all = vec![one("up", Kind::Constant(1)), one("kube_pod_info", Kind::Constant(1))];
    for phase in ["Pending", "Running", "Succeeded", "Failed", "Unknown"] {
        let value = u32::from(phase == "Running");
        all.extend(each(phase, "phase", &[("kube_pod_status_phase", Kind::Constant(value))]));
    }
    for resource in ["cpu", "memory"] {
        all.extend(each(
            resource,
            "resource",
            &[
                ("kube_pod_container_resource_limits", Kind::Constant(2)),
                ("kube_pod_container_resource_requests", Kind::Constant(1)),
            ],
        ));
    }
    for handler in ["/api/v1/orders", "/api/v1/users"] {
        for (at, bound) in BOUNDS.iter().enumerate() {
            let labels = vec![("handler", handler.to_owned()), ("le", (*bound).to_owned())];
            all.push(Template {
                name: "http_request_duration_seconds_bucket",
                labels,
                kind: Kind::Bucket(at),
            });
        }
        all.extend(each(
            handler,
            "handler",
            &[
                ("http_request_duration_seconds_sum", Kind::BucketSum),
                ("http_request_duration_seconds_count", Kind::BucketCount),
            ],
        ));
        for code in ["200", "404", "500"] {
            let labels = vec![("code", code.to_owned()), ("handler", handler.to_owned())];
            let kind = if code == "200" { Kind::Counter(900) } else { Kind::SparseCounter };
            all.push(Template { name: "http_requests_total", labels, kind });
        }
    }
    for (name, kind) in [
        ("container_cpu_usage_seconds_total", Kind::MicroCounter(6_000_000)),
        ("container_cpu_cfs_throttled_periods_total", Kind::SparseCounter),
        ("container_memory_working_set_bytes", Kind::Bytes(40_000)),
        ("container_memory_rss", Kind::Bytes(30_000)),
        ("container_spec_memory_limit_bytes", Kind::Constant(1 << 30)),
        ("container_network_receive_bytes_total", Kind::Counter(400_000)),
        ("container_start_time_seconds", Kind::Constant(1_763_100_000)),
        ("kube_pod_container_status_restarts_total", Kind::SparseCounter),
        ("kube_pod_container_status_ready", Kind::Constant(1)),
        ("go_goroutines", Kind::Gauge2(4_200)),
        ("process_open_fds", Kind::Constant(37)),
        ("process_cpu_seconds_total", Kind::CentiCounter(700)),
        ("pool_saturation_percent", Kind::Percent),
        ("cache_hit_ratio", Kind::Ratio),
    ] {
        all.push(one(name, kind));
    }
    all
}

fn one(name: &'static str, kind: Kind) -> Template {
    Template { name, labels: Vec::new(), kind }
}

fn each(value: &str, label: &'static str, families: &[(&'static str, Kind)]) -> Vec<Template> {
    let template = |(name, kind): &(&'static str, Kind)| Template {
        name,
        labels: vec![(label, value.to_owned())],
        kind: *kind,
    };
    families.iter().map(template).collect()
}
