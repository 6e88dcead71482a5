//! House rules and chores, as one program: `cargo xtask <task>`.
//!
//! | task | what it does |
//! | --- | --- |
//! | `setup` | installs what this machine lacks: QEMU, firmware, packages the guest is made of, WinRM clients, a KDC |
//! | `guest` | builds the test guest's disks |
//! | `tidy` | checks the house rules |
//! | `conformance` | writes docs/CONFORMANCE.md from the list of requirements and the marks of the tests |
//! | `test` | `setup`, `guest` and `tidy`, then clippy and every test |
//! | `sim` | plays histories in a fake world; needs nothing but the compiler |
//! | `mutants` | puts wrong lines into a copy of the code, one at a time, and demands that a test catches each |
//! | `fuzz` | looks for inputs that break a parser; needs a C++ compiler besides |
//! | `demo`, `bench`, `torture`, `powercut` | build and run the programs of `vmtest` with those names |
//!
//! Each task brings up what it needs first, so any of them works on a fresh clone. Progress goes to standard error;
//! an error ends the program with a message that says what to do.

mod fuzz;
mod guest;
mod mutants;
mod setup;
mod shell;
mod tidy;

use std::process::ExitCode;

use shell::{Result, Tool, Workspace};

const USAGE: &str = "usage: cargo xtask setup | guest | tidy | conformance | test | sim | mutants | fuzz | demo | bench | torture | powercut";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let workspace = Workspace::find();
    let (task, rest) = match arguments {
        [] => ("help", arguments),
        [task, rest @ ..] => (task.as_str(), rest),
    };
    match task {
        "setup" => setup::run(&workspace),
        "guest" => setup::run(&workspace).and_then(|()| guest::build(&workspace)).map(drop),
        "tidy" => tidy::run(&workspace),
        "conformance" => tidy::write_conformance(&workspace),
        "test" => test(&workspace),
        "sim" => simulate(&workspace, rest),
        "mutants" => mutants::run(&workspace, rest),
        "fuzz" => fuzz::run(&workspace, rest),
        "demo" | "bench" | "torture" | "powercut" => run_program(&workspace, task, rest),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(())
        }
        unknown => Err(shell::Failure::new(format!("no task is named {unknown:?}; {USAGE}"))),
    }
}

/// Everything that must hold before a change goes in. The test runner's summary is the last thing printed.
fn test(workspace: &Workspace) -> Result<()> {
    setup::run(workspace)?;
    let images = guest::build(workspace)?;
    tidy::run(workspace)?;
    shell::step("clippy");
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    Tool::cargo(workspace).args(clippy).run()?;
    // The client tests run the service as a program, so it has to be there.
    shell::step("building the service");
    Tool::cargo(workspace).args(["build", "--package", "snapvisor"]).run()?;
    shell::step("tests");
    // Examples in the documentation first: the summary that closes the run is then one of tests.
    Tool::cargo(workspace).args(["test", "--workspace", "--doc", "--quiet"]).run()?;
    let tests = Tool::cargo(workspace).args(["test", "--workspace", "--lib", "--bins", "--tests"]);
    with_environment(tests, workspace, &images, "debug").run()
}

/// Plays histories. Neither QEMU nor a guest is needed.
fn simulate(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    shell::step("building the simulation");
    Tool::cargo(workspace).args(["build", "--release", "--package", "vmtest", "--bin", "sim"]).run()?;
    shell::step("sim");
    Tool::new(workspace.target.join("release").join("sim")).args(arguments).run()
}

/// Builds the service and the program `name` of `vmtest` with optimisation and runs the latter.
fn run_program(workspace: &Workspace, name: &str, arguments: &[String]) -> Result<()> {
    setup::run(workspace)?;
    let images = guest::build(workspace)?;
    shell::step("building snapvisor and the program");
    let build = ["build", "--release", "--package", "snapvisor", "--package", "vmtest", "--bin", "snapvisor", "--bin"];
    Tool::cargo(workspace).args(build).arg(name).run()?;
    shell::step(name);
    let program = Tool::new(workspace.target.join("release").join(name)).args(arguments);
    with_environment(program, workspace, &images, "release").run()
}

/// Tells `vmtest` where the guest's disks, the service and the outside client are.
fn with_environment(tool: Tool, workspace: &Workspace, images: &guest::Images, profile: &str) -> Tool {
    tool.env("SNAPVISOR_GUEST_DIR", &images.directory)
        .env("SNAPVISOR_BIN", workspace.target.join(profile).join("snapvisor"))
        .env("SNAPVISOR_CLIENT_PYTHON", setup::client_python(workspace))
}
