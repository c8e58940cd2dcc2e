//! The ABI as this machine's own headers have it, and the library as it is found here.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use weft_verbs::ffi::Library;
use weft_verbs::ffi::layout::LAYOUT;
use weft_verbs::{Rail, RailOptions, VerbsError};

const HEADER: &str = "/usr/include/infiniband/verbs.h";

#[test]
fn every_size_and_offset_is_that_of_the_headers() {
    if !Path::new(HEADER).exists() {
        println!("skipped: {HEADER} is not here; on Debian: apt-get install libibverbs-dev");
        return;
    }
    let mut program = "#include <infiniband/verbs.h>\n#include <stddef.h>\n".to_owned();
    for (number, (name, field, value)) in LAYOUT.iter().enumerate() {
        let found = if field.is_empty() {
            format!("sizeof(struct {name})")
        } else {
            format!("offsetof(struct {name}, {field})")
        };
        writeln!(program, "_Static_assert({found} == {value}, \"{number}: {name} {field} is {value} here\");").unwrap();
    }
    for (name, value) in [
        ("IBV_QPS_ERR", 6),
        ("IBV_QPT_RC", 2),
        ("IBV_WR_RDMA_READ", 4),
        ("IBV_SEND_INLINE", 8),
        ("IBV_WC_RETRY_EXC_ERR", 12),
        ("IBV_WC_RNR_RETRY_EXC_ERR", 13),
        ("IBV_WC_REM_ACCESS_ERR", 10),
        ("IBV_WC_RESP_TIMEOUT_ERR", 20),
        ("IBV_EVENT_DEVICE_FATAL", 8),
        ("IBV_EVENT_GID_CHANGE", 18),
        ("IBV_PORT_ACTIVE", 4),
        ("IBV_QP_DEST_QPN", 1 << 20),
        ("IBV_QP_MAX_DEST_RD_ATOMIC", 1 << 17),
    ] {
        writeln!(program, "_Static_assert((int){name} == {value}, \"{name}\");").unwrap();
    }
    let folder = std::env::temp_dir().join(format!("weft-layout-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let source = folder.join("layout.c");
    std::fs::write(&source, program).unwrap();
    let compiled = Command::new("cc").arg("-fsyntax-only").arg(&source).output();
    std::fs::remove_dir_all(&folder).unwrap();
    let compiled = compiled.expect("a C compiler, which building Weft needs too");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
}

#[test]
fn a_machine_without_the_library_says_what_to_install() {
    let missing = Library::load(Some(Path::new("/nowhere/libibverbs.so.1")));
    let Err(VerbsError::Unavailable(why)) = missing else { panic!("it was found") };
    assert!(why.contains("apt-get install libibverbs1"), "{why}");
}

#[test]
fn a_library_that_is_another_is_not_taken_for_it() {
    let Err(VerbsError::Unavailable(why)) = Library::load(Some(Path::new("libc.so.6"))) else { panic!("it was taken") };
    assert!(why.contains("lacks ibv_get_device_list"), "{why}");
}

#[test]
fn a_machine_without_a_device_says_so() {
    // With a device this opens it; both are fine, and neither may hang or crash.
    match Rail::open(&RailOptions::default()) {
        Ok(rail) => assert!(!rail.device().name().is_empty()),
        Err(VerbsError::Unavailable(why)) => assert!(!why.is_empty()),
        Err(other) => panic!("{other}"),
    }
    let Err(error) = Rail::open(&RailOptions { device: Some("none_of_that_name".to_owned()), library: None }) else {
        panic!("a device of that name?")
    };
    assert!(matches!(error, VerbsError::Unavailable(_)));
}
