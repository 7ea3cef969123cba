//! Replacing limits and certificates while the node runs: on SIGHUP, on `POST /-/reload`, and when files have changed.
//!
//! Of the configuration only `limits` and `overrides` change in a running node; a change of another key is logged and
//! takes effect at the next start. A file that cannot be used changes nothing and raises a metric.

use super::Config;
use super::load::{LoadError, Source};
use parking_lot::Mutex;
use quorate_cluster::limits::LimitsProvider;
use quorate_model::Clock;
use quorate_wire::grpc::Tls;
use std::path::Path;
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
    tls: Option<Tls>,
    clock: Arc<dyn Clock>,
    current: Mutex<Current>,
    successful: AtomicBool,
    are_certificates_good: AtomicBool,
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
        tls: Option<Tls>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let text = source.file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
        let changed_at_ms = AtomicI64::new(clock.now_ms());
        let current = Mutex::new(Current { config, text });
        Self {
            source,
            limits,
            tls,
            clock,
            current,
            successful: AtomicBool::new(true),
            are_certificates_good: AtomicBool::new(true),
            changed_at_ms,
        }
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.current.lock().config.clone()
    }

    /// Whether the last reading was used, of the configuration and of the certificates.
    pub fn is_successful(&self) -> bool {
        self.successful.load(Ordering::Relaxed) && self.are_certificates_good.load(Ordering::Relaxed)
    }

    /// When a configuration was last put in force, in milliseconds.
    pub fn changed_at_ms(&self) -> i64 {
        self.changed_at_ms.load(Ordering::Relaxed)
    }

    /// Reads each file that differs from what was read last.
    ///
    /// # Errors
    /// As [`Reloader::reload`].
    pub fn poll(&self) -> Result<(), LoadError> {
        let certificates = self.reload_certificates();
        self.poll_limits().and(certificates)
    }

    fn poll_limits(&self) -> Result<(), LoadError> {
        let Some(file) = &self.source.file else { return Ok(()) };
        let text = self.read(file)?;
        if self.current.lock().text.as_ref() == Some(&text) {
            return Ok(());
        }
        self.use_text(Some(text))
    }

    /// Reads all files, and puts the limits and certificates in force.
    ///
    /// # Errors
    /// [`LoadError`]; then what the file is about stays as it was.
    pub fn reload(&self) -> Result<(), LoadError> {
        let certificates = self.reload_certificates();
        let text = self.source.file.as_ref().map(|file| self.read(file)).transpose()?;
        self.use_text(text).and(certificates)
    }

    fn reload_certificates(&self) -> Result<(), LoadError> {
        let Some(tls) = &self.tls else { return Ok(()) };
        let reloaded = tls.reload();
        self.are_certificates_good.store(reloaded.is_ok(), Ordering::Relaxed);
        match &reloaded {
            Ok(true) => tracing::info!("certificates reloaded: new connections between nodes use them"),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%error, "the certificates were not reloaded; the old ones stay in use")
            }
        }
        reloaded.map(drop).map_err(LoadError::Tls)
    }

    fn read(&self, file: &Path) -> Result<String, LoadError> {
        std::fs::read_to_string(file).map_err(|cause| {
            // The text that was read before counts as unread: when the file is back with it, that is a success.
            self.current.lock().text = None;
            let error = LoadError::Read { file: file.to_owned(), cause };
            self.note_failure(&error);
            error
        })
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
        match &outcome {
            Ok(()) => {
                self.successful.store(true, Ordering::Relaxed);
                self.changed_at_ms.store(self.clock.now_ms(), Ordering::Relaxed);
                tracing::info!("configuration reloaded");
            }
            Err(error) => self.note_failure(error),
        }
        outcome
    }

    fn note_failure(&self, error: &LoadError) {
        self.successful.store(false, Ordering::Relaxed);
        tracing::error!(%error, "the configuration was not reloaded; nothing has changed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_model::ManualClock;

    #[test]
    fn a_file_that_was_away_and_is_back_as_it_was_is_a_success() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("quorate.yaml");
        let text = "limits:\n  max_label_names_per_series: 7\n";
        std::fs::write(&file, text).unwrap();
        let source = Source { file: Some(file.clone()), settings: Vec::new() };
        let config = Arc::new(source.load().unwrap());
        let limits = Arc::new(LimitsProvider::new(config.limits.clone(), config.overrides.clone()));
        let reloader = Reloader::new(source, config, limits, None, Arc::new(ManualClock::new(0)));
        for read in [Reloader::poll, Reloader::reload] {
            std::fs::remove_file(&file).unwrap();
            assert!(read(&reloader).is_err() && !reloader.is_successful());
            std::fs::write(&file, text).unwrap();
            reloader.poll().unwrap();
            assert!(reloader.is_successful());
        }
    }
}
