//! All targets in one program: `FUZZ_TARGET` names the one, `FUZZ_INPUTS` the folder of its inputs, into
//! which the first ones are written. Without a name it says which targets there are. What it is given on
//! the command line is libFuzzer's.

#![no_main]

use std::{env, fs, path::PathBuf, process, sync::OnceLock};

use libfuzzer_sys::fuzz_target;
use medlake_ingest::testing::{TARGETS, Target};

static TARGET: OnceLock<Target> = OnceLock::new();

fuzz_target!(
    init: begin(),
    |bytes: &[u8]| {
        if let Some(target) = TARGET.get() {
            (target.run)(bytes);
        }
    }
);

fn begin() {
    let name = env::var("FUZZ_TARGET").unwrap_or_default();
    let Some(target) = TARGETS.iter().find(|target| target.name == name) else {
        TARGETS.iter().for_each(|target| println!("{}", target.name));
        process::exit(0);
    };
    let inputs = PathBuf::from(env::var("FUZZ_INPUTS").expect("a folder of inputs"));
    fs::create_dir_all(&inputs).expect("a folder that can be made");
    for (number, seed) in (target.seeds)().iter().enumerate() {
        fs::write(inputs.join(format!("seed{number}")), seed).expect("a file that can be written");
    }
    let _ = TARGET.set(*target);
}
