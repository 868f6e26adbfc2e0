//! What can be said to it.

use test_support::Service;

#[tokio::test]
async fn the_help_documents_each_flag() {
    let mut service = Service::program(env!("CARGO_BIN_EXE_gateway"))
        .arg("--help")
        .env("COLUMNS", "100")
        .start();
    assert!(service.wait().await.success());
    insta::assert_snapshot!(service.stdout().join("\n"));
}
