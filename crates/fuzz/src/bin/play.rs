//! Plays inputs once: `cargo run -p fuzz -- TARGET FILE…`. What a fuzzer found panics again, where a debugger can see it.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(target) = arguments.next().as_deref().and_then(fuzz::target) else {
        eprintln!("usage: play TARGET FILE…\ntargets:");
        fuzz::TARGETS.iter().for_each(|target| eprintln!("  {:<16} {}", target.name, target.input));
        return ExitCode::FAILURE;
    };
    for file in arguments {
        match std::fs::read(&file) {
            Ok(bytes) => println!("{file}: {}", if (target.run)(&bytes) { "accepted" } else { "refused" }),
            Err(error) => {
                eprintln!("{file}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
