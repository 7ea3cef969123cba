//! Replacing limits while the node runs: on SIGHUP, on `POST /-/reload`, and when the file has changed.
//!
//! Only `limits` and `overrides` change in a running node; a change of another key is logged and takes
//! effect at the next start. A file that cannot be used changes nothing and raises a metric.

use super::Config;
use super::load::{LoadError, Source};
use parking_lot::Mutex;
use quorate_cluster::limits::LimitsProvider;
use quorate_model::Clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// Adds the problems of limits, those of overrides with their tenant. Changes nothing.
pub(super) fn check_limits(config: &Config, problems: &mut Vec<String>) {
    config.limits.check("limits", problems);
    for (tenant, limits) in &config.overrides {
        limits.check(&format!("overrides.{tenant}"), problems);
        if let Err(error) = crate::tenant::check_name(tenant) {
            problems.push(format!("overrides.{tenant}: {error}"));
        }
    }
}

/// Reads the configuration again and puts new limits in place.
pub struct Reloader {
    source: Source,
    limits: Arc<LimitsProvider>,
    clock: Arc<dyn Clock>,
    current: Mutex<Current>,
    successful: AtomicBool,
    changed_at_ms: AtomicI64,
}

struct Current {
    config: Arc<Config>,
    text: Option<String>,
}

impl Reloader {
    /// Starts from the configuration that the node runs with.
    pub fn new(
        source: Source,
        config: Arc<Config>,
        limits: Arc<LimitsProvider>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let text = source.file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
        let changed_at_ms = AtomicI64::new(clock.now_ms());
        let current = Mutex::new(Current { config, text });
        Self { source, limits, clock, current, successful: AtomicBool::new(true), changed_at_ms }
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.current.lock().config.clone()
    }

    /// Whether the last reading was used.
    pub fn is_successful(&self) -> bool {
        self.successful.load(Ordering::Relaxed)
    }

    /// When a configuration was last put in force, in milliseconds.
    pub fn changed_at_ms(&self) -> i64 {
        self.changed_at_ms.load(Ordering::Relaxed)
    }

    /// Reads the file if its text differs from the last one read.
    ///
    /// # Errors
    /// As [`Reloader::reload`].
    pub fn poll(&self) -> Result<(), LoadError> {
        let Some(file) = &self.source.file else { return Ok(()) };
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(cause) => return self.settle(Err(LoadError::Read { file: file.clone(), cause })),
        };
        if self.current.lock().text.as_ref() == Some(&text) {
            return Ok(());
        }
        self.use_text(Some(text))
    }

    /// Reads the file and puts its limits in force.
    ///
    /// # Errors
    /// [`LoadError`]; then everything stays as it was.
    pub fn reload(&self) -> Result<(), LoadError> {
        let text = match &self.source.file {
            None => None,
            Some(file) => match std::fs::read_to_string(file) {
                Ok(text) => Some(text),
                Err(cause) => return self.settle(Err(LoadError::Read { file: file.clone(), cause })),
            },
        };
        self.use_text(text)
    }

    fn use_text(&self, text: Option<String>) -> Result<(), LoadError> {
        let loaded = self.source.load_text(text.as_deref().unwrap_or_default());
        let mut current = self.current.lock();
        current.text = text;
        let loaded = loaded.map(|new| {
            let mut next = Config::clone(&current.config);
            next.limits = new.limits.clone();
            next.overrides = new.overrides.clone();
            if next != new {
                tracing::warn!(
                    "the configuration has changes that need a restart; only limits were reloaded"
                );
            }
            self.limits.replace(next.limits.clone(), next.overrides.clone());
            current.config = Arc::new(next);
        });
        drop(current);
        self.settle(loaded)
    }

    fn settle(&self, outcome: Result<(), LoadError>) -> Result<(), LoadError> {
        self.successful.store(outcome.is_ok(), Ordering::Relaxed);
        match &outcome {
            Ok(()) => {
                self.changed_at_ms.store(self.clock.now_ms(), Ordering::Relaxed);
                tracing::info!("configuration reloaded");
            }
            Err(error) => tracing::error!(%error, "the configuration was not reloaded; nothing has changed"),
        }
        outcome
    }
}
