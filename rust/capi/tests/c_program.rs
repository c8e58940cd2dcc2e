//! A small C program against `weft.h`, compiled and run over both transports, and over TCP under TLS.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use weft_transport::Authority;

#[test]
fn a_c_program_moves_bytes_between_two_processes() {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    // The library lies beside the test itself.
    let built = std::env::current_exe().expect("this test").parent().expect("a folder").to_owned();
    assert!(built.join("libweft.so").exists(), "libweft.so was not built in {}", built.display());
    let program = built.join("weft-c-transfers");
    let compiled = Command::new("cc")
        .args(["-O1", "-Wall", "-Wextra", "-Werror", "-std=gnu11", "-I"])
        .arg(here.join("include"))
        .arg(here.join("tests/transfers.c"))
        .arg("-o")
        .arg(&program)
        .arg("-L")
        .arg(&built)
        .arg("-lweft")
        .arg(format!("-Wl,-rpath,{}", built.display()))
        .output()
        .expect("a C compiler");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let certificates = certificates(&built);
    for (transport, tls) in [("", false), ("tcp", false), ("tcp", true)] {
        let mut run = Command::new(&program);
        run.env("WEFT_SECRET", "a test's secret").env_remove("WEFT_TRANSPORT").env_remove("WEFT_HOST");
        for (variable, path) in &certificates {
            if tls {
                run.env(variable, path)
            } else {
                run.env_remove(variable)
            };
        }
        if !transport.is_empty() {
            run.env("WEFT_TRANSPORT", transport);
        }
        let output = run.output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("all is well"), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Files of a machine's certificate, by the variables that name them.
fn certificates(folder: &Path) -> Vec<(&'static str, PathBuf)> {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let now_s = i64::try_from(now_s).expect("before the year 292 billion");
    let root = Authority::make(now_s, 3600).expect("randomness");
    let issued = Authority::of_key(&root.key).and_then(|authority| authority.issue(&["c".to_owned()], now_s, 3600));
    let issued = issued.expect("a good name");
    let parts =
        [("WEFT_TLS_CA", root.certificate), ("WEFT_TLS_CERT", issued.certificate), ("WEFT_TLS_KEY", issued.key)];
    parts
        .into_iter()
        .map(|(variable, text)| {
            let path = folder.join(format!("weft-c-{variable}"));
            std::fs::write(&path, text).expect("the folder was just built into");
            (variable, path)
        })
        .collect()
}
