//! The command line.

use crate::support::binary;

#[tokio::test]
async fn help_names_each_flag_its_variable_and_default() {
    let mut help = binary().arg("--help").env("COLUMNS", "100").start();
    assert!(help.wait().await.success());
    insta::assert_snapshot!(help.stdout().join("\n"));
}

#[tokio::test]
async fn version_is_the_package_s() {
    let mut version = binary().arg("--version").start();
    assert!(version.wait().await.success());
    let expected = concat!("status-service ", env!("CARGO_PKG_VERSION"));
    assert_eq!(version.stdout(), [expected]);
}

#[tokio::test]
async fn a_time_that_is_none_is_a_configuration_error_that_names_the_variable() {
    for (variable, value) in [
        ("STATUS_INTERVAL", "0s"),
        ("STATUS_TIMEOUT", "1"),
        ("STATUS_GONE_AFTER", "soon"),
    ] {
        let mut service = binary().env(variable, value).start();
        assert_eq!(service.wait().await.code(), Some(2), "{variable}={value}");
        let words = service.stderr().join("\n");
        assert!(words.contains(variable), "{words}");
        assert!(
            words.contains("\"30s\""),
            "it does not say what would do: {words}"
        );
    }
}
