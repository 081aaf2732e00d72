//! Programs of others that the tests run: found where `make parts` put them, started on free ports
//! in folders of their own, ended with the test.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// The folder `make parts` installs into.
#[expect(clippy::disallowed_methods, reason = "a test learns where its parts are")]
pub(crate) fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set"));
    std::env::var_os("MEDLAKE_CACHE").map_or_else(|| home().join(".cache/medlake"), PathBuf::from)
}

/// A program in the virtual environment of the readers, such as `python`.
pub(crate) fn readers(program: &str) -> Command {
    let path = cache().join("readers/bin").join(program);
    assert!(path.exists(), "{path:?} is not there: run `make parts`");
    Command::new(path)
}

/// Runs a Python script of `tests/readers` (in the root of the repository); gives what it printed.
pub(crate) fn python(script: &str, arguments: &[impl AsRef<OsStr>]) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/readers");
    let scripts = [folder.join("run.py"), folder.join(script)];
    let output: Output = readers("python").args(scripts).args(arguments).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
