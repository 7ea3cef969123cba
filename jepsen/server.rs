//! The server under test with the planted bugs in it, of which `QUORATE_PLANT` chooses one. Without the variable it
//! behaves as `quorate` does.

use quorate_model::planted;
use std::io::Write;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match planted::chosen() {
        Ok(_) => quorate_server::main(),
        Err(error) => {
            // Without a reader of standard error the code tells enough.
            let _nobody_reads = writeln!(std::io::stderr(), "quorate-jepsen-server: {error}");
            ExitCode::from(2)
        }
    }
}
