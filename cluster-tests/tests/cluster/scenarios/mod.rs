//! Scenarios against real processes. Long ones wait for real time, so they run beside each other.

mod grafana;
mod growing;
mod kill_plan;
mod kills;
mod power_loss;
mod probe;
mod promqltest;
mod scrape;
mod three_nodes;
mod three_nodes_promql;
