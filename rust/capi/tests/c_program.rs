//! A small C program against `weft.h`, compiled and run over both transports.

use std::path::PathBuf;
use std::process::Command;

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
    for transport in ["", "tcp"] {
        let mut run = Command::new(&program);
        run.env("WEFT_SECRET", "a test's secret").env_remove("WEFT_TRANSPORT").env_remove("WEFT_HOST");
        if !transport.is_empty() {
            run.env("WEFT_TRANSPORT", transport);
        }
        let output = run.output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("all is well"), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
