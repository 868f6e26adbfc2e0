//! The Python client, installed and used.

use test_support::{NatsServer, python};

#[tokio::test]
async fn python_talks_to_the_server() {
    let nats = NatsServer::builder().open().start().await;
    let script = "
import asyncio, nats, sys
async def main():
    client = await nats.connect(sys.argv[1])
    print(client.connected_server_version)
    await client.close()
asyncio.run(main())
";
    let output = python()
        .args(["-c", script, &nats.url()])
        .output()
        .expect("python3 runs");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout)
            .trim()
            .split('.')
            .count(),
        3
    );
}
