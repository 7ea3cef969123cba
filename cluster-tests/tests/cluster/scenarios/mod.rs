//! Scenarios against real processes. Long ones wait for real time, so they run beside each other.

mod bad_disks;
mod bad_links;
mod deploy;
mod farewell;
mod grafana;
mod growing;
mod kafka_sources;
mod kill_plan;
mod kills;
mod life;
mod limits;
mod mtls;
mod power_loss;
mod probe;
mod promqltest;
mod quiet_groups;
mod read_consistency;
mod recover;
mod scrape;
mod three_nodes;
mod three_nodes_promql;
