//! What must never be in a history. One checker for each promise; each is a pure function of the operations.
//!
//! Knows histories. Does not know nodes, time-outs or HTTP. A checker that says nothing about a bad history is worth
//! nothing, so the tests of each give it those that it must refuse.

pub mod conflict;
pub mod counter;
pub mod fan_out;
pub mod register;
pub mod session;
pub mod set_full;
#[cfg(test)]
mod testing;

/// Examples kept of each kind of problem.
const EXAMPLES: usize = 3;

/// What a checker has to say.
#[derive(Debug, Clone, Default)]
pub struct Judgement {
    problems: Vec<Problem>,
    /// Figures for the report.
    pub notes: Vec<String>,
    /// Why the history proves less than it should: a run with any of these is no pass.
    pub unmet: Vec<String>,
}

/// All that was found of one kind.
#[derive(Debug, Clone)]
struct Problem {
    kind: &'static str,
    count: usize,
    examples: Vec<String>,
}

impl Judgement {
    /// Adds a broken promise.
    pub fn add(&mut self, kind: &'static str, example: impl FnOnce() -> String) {
        let at = self.problems.iter().position(|problem| problem.kind == kind).unwrap_or_else(|| {
            self.problems.push(Problem { kind, count: 0, examples: Vec::new() });
            self.problems.len() - 1
        });
        let problem = &mut self.problems[at];
        problem.count += 1;
        if problem.examples.len() < EXAMPLES {
            problem.examples.push(example());
        }
    }

    /// Adds all that another checker found.
    pub fn join(mut self, other: Self) -> Self {
        self.problems.extend(other.problems);
        self.notes.extend(other.notes);
        self.unmet.extend(other.unmet);
        self
    }

    /// Whether no promise was broken.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// How often a promise of this kind was broken.
    pub fn count(&self, kind: &str) -> usize {
        self.problems.iter().find(|problem| problem.kind == kind).map_or(0, |problem| problem.count)
    }

    /// One line for each kind of broken promise.
    pub fn lines(&self) -> Vec<String> {
        let line = |p: &Problem| format!("{} {}: {}", p.count, p.kind, p.examples.join("; "));
        self.problems.iter().map(line).collect()
    }
}
