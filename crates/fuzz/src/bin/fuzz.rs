//! libFuzzer's entry. The target is named by the variable `SNAPVISOR_FUZZ_TARGET`, so that one program serves all; without
//! it the program lists them, name and longest input, for `cargo xtask fuzz`.

#![no_main]

use std::sync::OnceLock;

use fuzz::{TARGETS, Target};
use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<&'static Target> = OnceLock::new();

fn choose() -> &'static Target {
    let name = std::env::var("SNAPVISOR_FUZZ_TARGET").unwrap_or_default();
    fuzz::target(&name).unwrap_or_else(|| {
        TARGETS.iter().for_each(|target| println!("{} {}", target.name, target.bytes_max));
        std::process::exit(0)
    })
}

fuzz_target!(init: { TARGET.get_or_init(choose); }, |bytes: &[u8]| {
    (TARGET.get_or_init(choose).run)(bytes);
});
