//! Scenarios against real processes. Long ones wait for real time, so they run beside each other.

mod grafana;
mod kill_plan;
mod kills;
mod power_loss;
mod promqltest;
mod scrape;
