//! Scenarios against real processes. Long ones wait for real time, so they run beside each other.

mod grafana;
mod kills;
mod power_loss;
mod promqltest;
mod scrape;
