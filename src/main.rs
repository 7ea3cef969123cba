//! The `quorate` binary: hands its arguments to `server` and ends with the exit code it returns.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    quorate_server::main()
}
