//! The executive screen in a real browser: it lives, and a paid order moves it.

use std::{path::Path, process::Command};

use crate::platform::{self, Platform};

#[tokio::test]
async fn a_paid_order_moves_the_screen_and_the_console_stays_empty() {
    let _alone = platform::alone().await;
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::quiet(dir.path()).await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("screen");
    std::fs::create_dir_all(&shots).unwrap();
    let output = tokio::task::spawn_blocking({
        let arguments = [platform.http.clone(), platform.services.clone()];
        let script = root.join("tests/browser/screen.mjs");
        let shots = shots.clone();
        move || Command::new("node").arg(script).args(arguments).arg(shots).output().unwrap()
    })
    .await
    .unwrap();
    assert!(
        output.status.success(),
        "{}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
        platform.log()
    );
    for shot in ["zh.png", "en.png", "phone.png", "operator.png"] {
        let bytes = std::fs::metadata(shots.join(shot)).unwrap().len();
        assert!(bytes > 20_000, "{shot} has only {bytes} bytes");
    }
    println!("{}screenshots in {}", String::from_utf8_lossy(&output.stdout), shots.display());
}
